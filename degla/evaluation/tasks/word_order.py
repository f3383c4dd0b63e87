"""ARO's word-order test on any captions (Yuksekgonul et al. 2023, section 2)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from degla.bounds import bounded, whole
from degla.evaluation.caption_files import read_caption_file
from degla.evaluation.choice_task import ChoiceTask
from degla.evaluation.items import Choice
from degla.evaluation.perturbations import frozen_order
from degla.evaluation.scoring import Ties
from degla.evaluation.task import Task


class WordOrder(ChoiceTask):
    """A caption against itself in four other word orders.

    Most of it can be solved without the image: compare with the no-image baseline.

    Args:
        captions: BLIP's or Karpathy's JSON, or a CSV of ``image, caption``.
        images: folder of the images.
        frozen: file of the perturbed captions; made once where it is missing.
        num_items: number of items in the published data; None where nothing is published.
        name: its name in results.
        subsets: ``order`` is the only one.
        ties: ``original`` counts them as correct: ARO's argmax has the correct caption first.
    """

    @bounded("benchmark")
    def __init__(
        self,
        captions: str,
        images: str,
        frozen: str,
        num_items: Annotated[int, whole(1)] | None = None,
        name: str = "order",
        subsets: Sequence[str] | None = None,
        ties: Ties = "lost",
    ):
        super().__init__(
            name,
            subsets,
            ties,
            official_counts={"order": num_items},
            download_hint="captions: Karpathy's split; images: by form from their authors",
            ties_count_as_correct=("order",),
        )
        self.captions = Path(captions)
        self.images = Path(images)
        self.frozen = Path(frozen)
        self.tagger = "not read yet"

    def read(self, subset: str) -> list[Choice]:
        """Read one item per caption."""
        choices, self.tagger = order_choices(self, subset, self.captions, self.images, self.frozen)
        return choices

    def protocol(self) -> dict[str, Any]:
        """Return the protocol, with the tagger that made the perturbed captions."""
        return super().protocol() | {"tagger": self.tagger}


def order_choices(task: Task, subset: str, captions: Path, images: Path, frozen: Path) -> tuple[list[Choice], str]:
    """Return the items of a word-order test, and the tagger that made them.

    Args:
        task: its protocol gets the hashes of both files.
        subset: the subset that the items belong to.
        captions: see ``read_caption_file``.
        images: folder of the images.
        frozen: see ``frozen_order``.
    """
    captioned = read_caption_file(task, captions, images)
    content = frozen_order(frozen, captioned)
    task.read_file(frozen, "perturbed captions")
    by_name = {entry.name: entry.image for entry in captioned}
    return [
        Choice(subset, str(i), by_name[item.image], tuple(item.captions)) for i, item in enumerate(content.items)
    ], content.tagger
