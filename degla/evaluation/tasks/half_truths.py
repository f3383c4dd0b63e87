"""Half-truths (Kargi et al. 2026): a short correct caption against the same caption with one wrong detail added."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from degla.evaluation.choice_task import ChoiceTask
from degla.evaluation.hub import hub_rows
from degla.evaluation.items import Choice, ImageRef
from degla.evaluation.schemas import ForeignModel, ItemId, Text
from degla.evaluation.scoring import Ties

_COUNTS = {"coco_qwen": 509, "coco_mistral": 454, "cc3m_qwen": 474}


class _Comparison(ForeignModel):
    anchor: Text
    half_truth: Text
    id: ItemId = None
    triplet_type: str | None = None


class _Line(_Comparison):
    image: Text


class _HubRow(_Comparison):
    image: ImageRef


_LINE = TypeAdapter(_Line)


class HalfTruths(ChoiceTask):
    """Comparisons of an ``anchor`` with its ``half_truth``; the groups are ``entity`` and ``relation``.

    Args:
        name: its name in results.
        hub: the hub data set, or a folder of ``<subset>.parquet`` or ``<subset>.jsonl`` files.
        images: folder of the images that JSON lines name; Parquet files hold their images.
        subsets: the subsets to measure; None measures all.
        ties: the benchmark's own code loses ties as well.
    """

    def __init__(
        self,
        name: str = "half_truths",
        hub: str = "kbora/Half-Truths",
        images: str = "data",
        subsets: Sequence[str] | None = None,
        ties: Ties = "lost",
    ):
        super().__init__(
            name,
            subsets,
            ties,
            official_counts=_COUNTS,
            download_hint="huggingface.co/datasets/kbora/Half-Truths (images included)",
        )
        self.hub = hub
        self.images = Path(images)

    def read(self, subset: str) -> list[Choice]:
        """Read the comparisons of one source."""
        lines = Path(self.hub) / f"{subset}.jsonl"
        if lines.is_file():
            rows = self.read_lines(lines, "captions", _LINE)
            return [_choice(subset, i, row, ImageRef(str(self.images / row.image))) for i, row in enumerate(rows)]
        return [_choice(subset, i, row, row.image) for i, row in enumerate(hub_rows(self, self.hub, _HubRow, subset))]


def _choice(subset: str, number: int, row: _Comparison, image: ImageRef) -> Choice:
    return Choice(
        subset=subset,
        item=str(number if row.id is None else row.id),
        image=image,
        captions=(row.anchor, row.half_truth),
        group=row.triplet_type or "",
    )
