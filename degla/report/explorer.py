"""A page that shows the items on which two models disagree, with their images; it filters and sorts in the browser."""

import html
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from degla.evaluation.items import ImageRef
from degla.report.benchmark_results import Evaluation
from degla.report.disputed import (
    common_benchmarks,
    counts_by_kind,
    disputed_items,
    in_words,
    spread_evenly,
    thumbnail,
)
from degla.report.page import page


def write_explorer(
    first: Evaluation, second: Evaluation, path: Path, images: Mapping[str, ImageRef], max_items: int
) -> Path | None:
    """Write the page, which needs no other file and no network.

    Args:
        first: the base model.
        second: the other model.
        path: where to write the page.
        images: by name; an item without one is shown without.
        max_items: how many items to show. Subsets and directions take turns, the largest change of margin first.

    Returns:
        ``path``, or None where the two models have no benchmark in common.
    """
    if not common_benchmarks(first, second):
        return None
    disputed = disputed_items(first, second)
    content = {
        "first": first.label,
        "second": second.label,
        "counts": counts_by_kind(disputed),
        "items": [
            {
                "subset": item.subset,
                "kind": item.kind,
                "item": item.second.item,
                "caption": item.second.caption,
                "rivals": [item.first.rival, item.second.rival],
                "margins": [round(item.first.margin, 4), round(item.second.margin, 4)],
                "words": [in_words(item.first, first.label), in_words(item.second, second.label)],
                "image": thumbnail(images.get(item.second.image)),
                "image_name": item.second.image,
            }
            for item in spread_evenly(disputed, max_items)
        ],
    }
    data = json.dumps(content).replace("<", "\\u003c")  # nothing in a caption may end the script
    body = files("degla.report").joinpath("explorer.html").read_text(encoding="utf-8")
    title = f"Where {second.label} and {first.label} disagree"
    path.write_text(page(title, [body.replace("/*DATA*/null", data)]), encoding="utf-8")
    return path


def explorer_link(path: Path) -> str:
    """Return a paragraph that links to the page, for a report in the same folder."""
    return f'<p><a href="{html.escape(path.name)}">All items on which the first and the last model disagree</a></p>'
