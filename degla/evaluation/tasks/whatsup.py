"""What'sUp (Kamath et al. 2023): the right preposition among those that would fit."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from degla.evaluation.items import Choice, ImageRef, Outcome
from degla.evaluation.scoring import Ties
from degla.evaluation.task import ChoiceTask, Features

# Subset -> file, and the folder of its images below `annotations`.
_FILES = {
    "controlled_a": ("controlled_images_dataset.json", "controlled_images"),
    "controlled_b": ("controlled_clevr_dataset.json", "controlled_clevr"),
    "coco_one": ("coco_qa_one_obj.json", "val2017"),
    "coco_two": ("coco_qa_two_obj.json", "val2017"),
    "gqa_one": ("vg_qa_one_obj.json", "vg_images"),
    "gqa_two": ("vg_qa_two_obj.json", "vg_images"),
}
_OPPOSITES = (("left", "right"), ("on", "under"), ("in-front", "behind"))


class WhatsUp(ChoiceTask):
    """Six subsets; the two controlled ones also by pairs and by sets of images of the same objects.

    Args:
        name: what it is called in results.
        annotations: folder of the JSON files and, below it, of the images, as the authors' download lays them out.
        coco_val2017: folder of COCO val2017.
        subsets: which to measure; None measures all.
        ties: ``original`` wins them: the authors' argmax has the right caption first.
    """

    official = dict.fromkeys(_FILES)  # no published count that we could check
    won_ties = tuple(_FILES)
    get_it = "the Google Drive folder named in the README of github.com/amitakamath/whatsup_vlms"

    def __init__(
        self,
        name: str = "whatsup",
        annotations: str = "data/whatsup",
        coco_val2017: str = "data/coco/val2017",
        subsets: Sequence[str] | None = None,
        ties: Ties = "lost",
    ):
        super().__init__(name, subsets, ties)
        self.annotations = Path(annotations)
        self.coco_val2017 = Path(coco_val2017)

    def read(self, subset: str) -> list[Choice]:
        """The items of a subset; in every file the first caption is right."""
        file, folder = _FILES[subset]
        items = self.read_json(self.annotations / file, "captions")
        root = self.coco_val2017 if folder == "val2017" else self.annotations / folder
        if subset.startswith("controlled"):
            return [
                Choice(
                    subset,
                    Path(item["image_path"]).stem,
                    ImageRef(str(root / Path(item["image_path"]).name)),
                    tuple(item["caption_options"]),
                )
                for item in items
            ]
        digits = 12 if folder == "val2017" else 0
        return [
            Choice(subset, str(i), ImageRef(str(root / f"{str(image).zfill(digits)}.jpg")), (right, wrong))
            for i, (image, right, wrong) in enumerate(items)
        ]

    def outcomes(self, features: Features) -> list[Outcome]:
        """Every item, and the pairs and sets of the controlled images."""
        found = super().outcomes(features)
        for subset in ("controlled_a", "controlled_b"):
            sets: dict[tuple[str, str], dict[str, Outcome]] = defaultdict(dict)
            for outcome in found:
                if outcome.subset == subset:
                    first, relation, *_, last = outcome.item.split("_")
                    sets[first, last][relation] = outcome
            for objects, members in sets.items():
                for pair in _OPPOSITES:
                    if set(pair) <= set(members):
                        joint = _joint(f"{subset}/pairs", [members[relation] for relation in pair])
                        found.append(joint._replace(item="_".join((*objects, *pair))))
                if len(members) == 4:
                    found.append(_joint(f"{subset}/sets", list(members.values()))._replace(item="_".join(objects)))
        return found


def _joint(subset: str, members: list[Outcome]) -> Outcome:
    """Right where all are."""
    worst = min(members, key=lambda outcome: outcome.margin)
    chance = 1.0
    for member in members:
        chance *= member.chance
    return worst._replace(
        subset=subset,
        image=members[0].image,
        caption=members[0].caption,
        correct=all(member.correct for member in members),
        chance=chance,
    )
