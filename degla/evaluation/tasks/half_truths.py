"""Half-truths (Kargi et al. 2026): a short true caption against the same with one wrong detail more."""

from collections.abc import Sequence
from pathlib import Path

from degla.evaluation.hub import hub_rows
from degla.evaluation.items import Choice, ImageRef
from degla.evaluation.scoring import Ties
from degla.evaluation.task import ChoiceTask, stated


class HalfTruths(ChoiceTask):
    """Whether the ``anchor`` beats the ``half_truth``; groups are ``entity`` and ``relation``.

    Args:
        name: what it is called in results.
        hub: the hub data set, or a folder of ``<subset>.parquet`` or ``<subset>.jsonl`` files.
        images: folder of the images that JSON lines name; Parquet holds them.
        subsets: which to measure; None measures all.
        ties: the benchmark's own code loses ties as well.
    """

    official = {"coco_qwen": 509, "coco_mistral": 454, "cc3m_qwen": 474}
    get_it = "huggingface.co/datasets/kbora/Half-Truths (images included)"

    def __init__(
        self,
        name: str = "half_truths",
        hub: str = "kbora/Half-Truths",
        images: str = "data",
        subsets: Sequence[str] | None = None,
        ties: Ties = "lost",
    ):
        super().__init__(name, subsets, ties)
        self.hub = hub
        self.images = Path(images)

    def read(self, subset: str) -> list[Choice]:
        """The comparisons of one source."""
        lines = Path(self.hub) / f"{subset}.jsonl"
        if lines.is_file():
            rows = self.read_lines(lines, "captions")
            for row in rows:
                row["image"] = ImageRef(str(self.images / row["image"]))
        else:
            rows = hub_rows(self, self.hub, ("image", "anchor", "half_truth"), subset)
        return [
            Choice(
                subset,
                str(stated(row, "id", i)),
                row["image"],
                (row["anchor"], row["half_truth"]),
                row.get("triplet_type") or "",
            )
            for i, row in enumerate(rows)
        ]
