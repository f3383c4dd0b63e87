"""Items that two models answer differently, and small copies of their images."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

from PIL import Image
from torchvision.transforms.v2 import functional as F

from degla.data.images import BadImage
from degla.evaluation.items import ImageRef, Outcome
from degla.report.benchmark_results import Evaluation

_SIDE = 160  # pixels of the longer side of a thumbnail


class Disputed(NamedTuple):
    """An item that only one of two models answers correctly."""

    subset: str  # <benchmark>/<subset>
    first: Outcome
    second: Outcome

    @property
    def kind(self) -> str:
        """Which model is correct: ``gained`` where it is the second, ``lost`` where it is the first."""
        return "gained" if self.second.correct else "lost"

    @property
    def change(self) -> float:
        """Margin of the second model minus that of the first."""
        return self.second.margin - self.first.margin


def disputed_items(first: Evaluation, second: Evaluation) -> list[Disputed]:
    """Return the items that the two models answer differently, the largest change of margin first.

    Args:
        first: the base model.
        second: the other model.
    """
    disputed = []
    for benchmark in common_benchmarks(first, second):
        before = {(outcome.subset, outcome.item): outcome for outcome in first.outcomes(benchmark)}
        for after in second.outcomes(benchmark):
            old = before.get((after.subset, after.item))
            if old is not None and old.correct != after.correct and old.caption == after.caption:
                disputed.append(Disputed(f"{benchmark}/{after.subset}", old, after))
    return sorted(disputed, key=lambda item: -abs(item.change))


def common_benchmarks(first: Evaluation, second: Evaluation) -> list[str]:
    """Return the benchmarks that both models have answered.

    Args:
        first: the base model.
        second: the other model.
    """
    return [benchmark for benchmark in first.benchmarks if benchmark in second.benchmarks]


def counts_by_kind(disputed: Sequence[Disputed]) -> list[tuple[str, str, int]]:
    """Return subset, kind and number of items, sorted by subset."""
    counts = Counter((item.subset, item.kind) for item in disputed)
    return [(subset, kind, count) for (subset, kind), count in sorted(counts.items())]


def spread_evenly(disputed: Sequence[Disputed], max_items: int) -> list[Disputed]:
    """Take items from each subset and kind in turn, so that a large subset does not hide the others.

    Args:
        disputed: items, those to prefer first.
        max_items: how many to take at most.
    """
    groups: dict[tuple[str, str], list[Disputed]] = {}
    for item in disputed:
        groups.setdefault((item.subset, item.kind), []).append(item)
    turns = [item for turn in zip_longest(*groups.values()) for item in turn if item is not None]
    return turns[:max_items]


def thumbnail(image: ImageRef | None) -> str | None:
    """Return a small copy of an image as a ``data:`` address; None where there is no image or it cannot be decoded."""
    if image is None:
        return None
    try:
        small: Image.Image = F.to_pil_image(image.load())
    except BadImage:
        return None
    small.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def in_words(outcome: Outcome, label: str) -> str:
    """Say how sure a model was of its answer.

    Args:
        outcome: the answer.
        label: name of the model.
    """
    if outcome.tie:
        return f"{label}: both answers score the same"
    chosen = "the correct answer" if outcome.margin > 0 else "a wrong answer"
    return f"{label}: {chosen} scores higher by {abs(outcome.margin):.4f}"
