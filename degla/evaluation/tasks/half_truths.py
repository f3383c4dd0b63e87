"""Half-truths (Kargi et al. 2026): a short correct caption against the same caption with one wrong detail added."""

from collections.abc import Sequence
from pathlib import Path

from degla.evaluation.choice_task import ChoiceTask
from degla.evaluation.hub import hub_rows
from degla.evaluation.items import Choice, ImageRef
from degla.evaluation.scoring import Ties
from degla.evaluation.task import value_or

_COUNTS = {"coco_qwen": 509, "coco_mistral": 454, "cc3m_qwen": 474}


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
            rows = self.read_lines(lines, "captions")
            for row in rows:
                row["image"] = ImageRef(str(self.images / row["image"]))
        else:
            rows = hub_rows(self, self.hub, ("image", "anchor", "half_truth"), subset)
        return [
            Choice(
                subset=subset,
                item=str(value_or(row, "id", i)),
                image=row["image"],
                captions=(row["anchor"], row["half_truth"]),
                group=row.get("triplet_type") or "",
            )
            for i, row in enumerate(rows)
        ]
