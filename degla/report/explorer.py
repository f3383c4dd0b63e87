"""A page of its own that shows the items on which two models disagree, with their images; filters in the browser."""

import base64
import io
import json
from collections.abc import Mapping
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path

from torchvision.transforms.v2 import functional as F

from degla.data.images import BadImage
from degla.evaluation.items import ImageRef
from degla.report.benchmark_results import Evaluation

_SIDE = 160  # pixels of the longer side


def write_explorer(
    first: Evaluation, second: Evaluation, path: Path, images: Mapping[str, ImageRef], max_items: int
) -> Path | None:
    """Write the page: no other file, no network.

    Args:
        first: the one that is compared with.
        second: the other.
        path: of the page.
        images: by name; an item without one is shown without.
        max_items: how many are shown, the same number of every subset and direction as far as there are so many,
            the clearest first.

    Returns:
        ``path``, or None where the two have no benchmark in common.
    """
    disputed, counts = [], {}
    for benchmark in first.benchmarks:
        if benchmark not in second.benchmarks:
            continue
        before = {(outcome.subset, outcome.item): outcome for outcome in first.outcomes(benchmark)}
        for after in second.outcomes(benchmark):
            old = before.get((after.subset, after.item))
            if old is None or old.correct == after.correct or old.caption != after.caption:
                continue
            name = f"{benchmark}/{after.subset}"
            kind = "gained" if after.correct else "lost"
            counts[name, kind] = counts.get((name, kind), 0) + 1
            disputed.append((name, kind, old, after))
    if not counts and not set(first.benchmarks) & set(second.benchmarks):
        return None
    chosen = _spread(disputed, max_items)
    content = {
        "first": first.label,
        "second": second.label,
        "counts": [[name, kind, count] for (name, kind), count in sorted(counts.items())],
        "items": [
            {
                "subset": name,
                "kind": kind,
                "item": after.item,
                "caption": after.caption,
                "rivals": [old.rival, after.rival],
                "margins": [round(old.margin, 4), round(after.margin, 4)],
                "image": _thumbnail(images.get(after.image)),
                "image_name": after.image,
            }
            for name, kind, old, after in chosen
        ],
    }
    data = json.dumps(content).replace("<", "\\u003c")  # nothing in a caption may end the script
    page = files("degla.report").joinpath("explorer.html").read_text(encoding="utf-8")
    path.write_text(page.replace("/*DATA*/null", data), encoding="utf-8")
    return path


def _spread(disputed: list[tuple], max_items: int) -> list[tuple]:
    """Take turns among subsets and directions, the largest change of margin first."""
    groups: dict[tuple[str, str], list[tuple]] = {}
    for entry in sorted(disputed, key=lambda entry: -abs(entry[3].margin - entry[2].margin)):
        groups.setdefault(entry[:2], []).append(entry)
    turns = [entry for turn in zip_longest(*groups.values()) for entry in turn if entry is not None]
    return turns[:max_items]


def _thumbnail(image: ImageRef | None) -> str | None:
    try:
        pixels = image.load() if image else None
    except BadImage:
        pixels = None
    if pixels is None:
        return None
    image = F.to_pil_image(pixels)
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
