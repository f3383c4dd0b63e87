"""What'sUp (Kamath et al. 2023): the correct preposition among plausible ones."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, TypeAdapter

from degla.evaluation.choice_task import ChoiceTask
from degla.evaluation.items import Choice, ImageRef, Outcome
from degla.evaluation.schemas import Captions, ForeignModel, Text
from degla.evaluation.scoring import Ties
from degla.evaluation.task import FeatureSource

# Subset -> file, and the folder of its images below `annotations`.
_FILES = {
    "controlled_a": ("controlled_images_dataset.json", "controlled_images"),
    "controlled_b": ("controlled_clevr_dataset.json", "controlled_clevr"),
    "coco_one": ("coco_qa_one_obj.json", "val2017"),
    "coco_two": ("coco_qa_two_obj.json", "val2017"),
    "gqa_one": ("vg_qa_one_obj.json", "vg_images"),
    "gqa_two": ("vg_qa_two_obj.json", "vg_images"),
}
_CONTROLLED = ("controlled_a", "controlled_b")
_OPPOSITES = (("left", "right"), ("on", "under"), ("in-front", "behind"))


class _Controlled(ForeignModel):
    image_path: Text
    caption_options: Captions


_CONTROLLED_FILE = TypeAdapter(list[_Controlled])


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # JSON has no tuples


_Question = Annotated[tuple[int | str, Text, Text], BeforeValidator(_tuple)]
_QUESTIONS_FILE = TypeAdapter(list[_Question], config=ConfigDict(strict=True))


class WhatsUp(ChoiceTask):
    """Six subsets; the two controlled ones also by pairs and by sets of images of the same objects.

    Args:
        name: its name in results.
        annotations: folder of the JSON files and, below it, of the images, in the layout of the authors' download.
        coco_val2017: folder of COCO val2017.
        subsets: the subsets to measure; None measures all.
        ties: ``original`` counts them as correct: the authors' argmax has the correct caption first.
    """

    def __init__(
        self,
        name: str = "whatsup",
        annotations: str = "data/whatsup",
        coco_val2017: str = "data/coco/val2017",
        subsets: Sequence[str] | None = None,
        ties: Ties = "lost",
    ):
        super().__init__(
            name,
            subsets,
            ties,
            official_counts=dict.fromkeys(_FILES),  # we could check no published count
            download_hint="the Google Drive folder named in the README of github.com/amitakamath/whatsup_vlms",
            ties_count_as_correct=tuple(_FILES),
        )
        self.annotations = Path(annotations)
        self.coco_val2017 = Path(coco_val2017)

    def read(self, subset: str) -> list[Choice]:
        """Read the items of a subset; in every file the first caption is correct."""
        file, folder = _FILES[subset]
        root = self.coco_val2017 if folder == "val2017" else self.annotations / folder
        if subset in _CONTROLLED:
            return [
                Choice(
                    subset=subset,
                    item=Path(item.image_path).stem,
                    image=ImageRef(str(root / Path(item.image_path).name)),
                    captions=tuple(item.caption_options),
                )
                for item in self.read_json(self.annotations / file, "captions", _CONTROLLED_FILE)
            ]
        digits = 12 if folder == "val2017" else 0
        items = self.read_json(self.annotations / file, "captions", _QUESTIONS_FILE)
        return [
            Choice(subset, str(i), ImageRef(str(root / f"{str(image).zfill(digits)}.jpg")), (correct, wrong))
            for i, (image, correct, wrong) in enumerate(items)
        ]

    def outcomes(self, features: FeatureSource) -> list[Outcome]:
        """Answer every item, and the pairs and sets of the controlled images."""
        outcomes = super().outcomes(features)
        joint = [
            outcome
            for subset in _CONTROLLED
            for outcome in _joint_outcomes(subset, [single for single in outcomes if single.subset == subset])
        ]
        return outcomes + joint


def _joint_outcomes(subset: str, outcomes: Sequence[Outcome]) -> Iterator[Outcome]:
    """Answer the pairs and sets of images that show the same objects."""
    sets: dict[tuple[str, str], dict[str, Outcome]] = defaultdict(dict)
    for outcome in outcomes:
        first, *relation, last = outcome.item.split("_")
        if relation:
            sets[first, last][relation[0]] = outcome
    for objects, members in sets.items():
        for pair in _OPPOSITES:
            if set(pair) <= set(members):
                joint = _joint(f"{subset}/pairs", [members[relation] for relation in pair])
                yield joint._replace(item="_".join((*objects, *pair)))
        if len(members) == 4:
            yield _joint(f"{subset}/sets", list(members.values()))._replace(item="_".join(objects))


def _joint(subset: str, members: Sequence[Outcome]) -> Outcome:
    """Join the answers of several items: correct where all are."""
    worst = min(members, key=lambda outcome: outcome.margin)
    return worst._replace(
        subset=subset,
        image=members[0].image,
        caption=members[0].caption,
        correct=all(member.correct for member in members),
        chance=prod((member.chance for member in members), start=1.0),
    )
