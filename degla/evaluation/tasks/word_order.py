"""ARO's test of the order of words on anyone's captions (Yuksekgonul et al. 2023, section 2)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from degla.evaluation.caption_files import read_captioned
from degla.evaluation.items import Choice
from degla.evaluation.perturbations import frozen_order
from degla.evaluation.scoring import Ties
from degla.evaluation.task import ChoiceTask, Task


class WordOrder(ChoiceTask):
    """A caption against itself in four other orders. Most of it needs no image: compare with the blind score.

    Args:
        captions: BLIP's or Karpathy's JSON, or a CSV of ``image, caption``.
        images: folder of the images.
        frozen: file of the spoilt captions; made once where it is missing.
        num_items: that the published data have; None where there are none.
        name: what it is called in results.
        subsets: ``order`` is the only one.
        ties: ``original`` wins them: ARO's argmax has the right caption first.
    """

    won_ties = ("order",)
    get_it = "captions: Karpathy's split; images: by form from their authors"

    def __init__(
        self,
        captions: str,
        images: str,
        frozen: str,
        num_items: int | None = None,
        name: str = "order",
        subsets: Sequence[str] | None = None,
        ties: Ties = "lost",
    ):
        self.official = {"order": num_items}
        super().__init__(name, subsets, ties)
        self.captions = Path(captions)
        self.images = Path(images)
        self.frozen = Path(frozen)
        self.tagger = "not read yet"

    def read(self, subset: str) -> list[Choice]:
        """One item a caption."""
        choices, self.tagger = order_choices(self, subset, self.captions, self.images, self.frozen)
        return choices

    def protocol(self) -> dict[str, Any]:
        """Who tagged the words besides."""
        return super().protocol() | {"tagger": self.tagger}


def order_choices(task: Task, subset: str, captions: Path, images: Path, frozen: Path) -> tuple[list[Choice], str]:
    """The items of a test of order, and the tagger that made them.

    Args:
        task: whose protocol gets the hashes of both files.
        subset: what the items belong to.
        captions: see ``read_captioned``.
        images: folder of the images.
        frozen: see ``frozen_order``.
    """
    captioned = read_captioned(task, captions, images)
    content = frozen_order(frozen, captioned)
    task.read_file(frozen, "spoilt captions")
    images = {name: image for name, image, _ in captioned}
    return [
        Choice(subset, str(i), images[item["image"]], tuple(item["captions"]))
        for i, item in enumerate(content["items"])
    ], content["tagger"]
