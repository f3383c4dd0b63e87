"""SugarCrepe++ (Dumpala et al. 2024): two correct captions in different words against a wrong one."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import BeforeValidator, TypeAdapter
from torch import Tensor

from degla.evaluation.items import ImageRef, Outcome
from degla.evaluation.schemas import ForeignModel, ItemId, Text
from degla.evaluation.scoring import Ties, correct_and_tied
from degla.evaluation.task import FeatureSource, Task, mean

_SIDES = ("itt", "tot")
_COUNTS = {"replace_att": 788, "replace_obj": 1652, "replace_rel": 1406, "swap_att": 666, "swap_obj": 245}
# Subset -> names of its file on the hub (one is spelled "atribute" there). The authors' repository,
# github.com/Sri-Harsha/scpp, names its files by the subset: replace_att.json and so on.
_HUB_FILES = {
    "replace_att": ("replace_attribute",),
    "replace_obj": ("replace_object",),
    "replace_rel": ("replace_relation",),
    "swap_att": ("swap_atribute", "swap_attribute"),
    "swap_obj": ("swap_object",),
}


class _Item(ForeignModel):
    filename: Text
    caption: Text
    caption2: Text
    negative_caption: Text
    id: ItemId = None


def _values(content: Any) -> Any:
    return list(content.values()) if isinstance(content, dict) else content


_FILE = TypeAdapter(Annotated[list[_Item], BeforeValidator(_values)])


class _Triple(NamedTuple):
    subset: str
    item: str
    image: ImageRef
    captions: tuple[str, str, str]  # correct, correct, wrong


class SugarCrepePP(Task):
    """SugarCrepe++'s five files, each with the image (``itt``) and without (``tot``).

    Image-to-text (``itt``): both correct captions score higher than the wrong one. Text-only (``tot``): the correct
    captions are closer to each other than either is to the wrong one.

    Args:
        name: its name in results.
        annotations: folder of the five JSON files, lists or objects of
            ``filename, caption, caption2, negative_caption``, named as on the hub or as in the authors' repository.
        images: folder of COCO val2017.
        subsets: such as ``replace_obj/itt``; None measures all.
        ties: the benchmark's own code loses ties as well.
    """

    def __init__(
        self,
        name: str = "sugarcrepe_pp",
        annotations: str = "data/sugarcrepe_pp",
        images: str = "data/coco/val2017",
        subsets: Sequence[str] | None = None,
        ties: Ties = "lost",
    ):
        super().__init__(
            name,
            subsets,
            ties,
            official_counts={f"{subset}/{side}": count for subset, count in _COUNTS.items() for side in _SIDES},
            download_hint=(
                "captions: github.com/Sri-Harsha/scpp, data/, or huggingface.co/datasets/Aman-J/SugarCrepe_pp; "
                "images: COCO val2017 (cocodataset.org, 1 GB)"
            ),
        )
        self.annotations = Path(annotations)
        self.images = Path(images)

    def read(self, subset: str) -> list[_Triple]:
        """Read the triples of one file, such as ``replace_obj``."""
        paths = [self.annotations / f"{stem}.json" for stem in (*_HUB_FILES[subset], subset)]
        items = self.read_json(next((path for path in paths if path.is_file()), paths[0]), "captions", _FILE)
        return [
            _Triple(
                subset=subset,
                item=str(i if item.id is None else item.id),
                image=ImageRef(str(self.images / item.filename)),
                captions=(item.caption, item.caption2, item.negative_caption),
            )
            for i, item in enumerate(items)
        ]

    @cached_property
    def triples(self) -> list[_Triple]:
        """All items; they are read once."""
        return [triple for file in self.survey_parts() for triple in self.read(file)]

    def list_images(self) -> Iterable[ImageRef]:
        """Return every image of the items."""
        return dict.fromkeys(triple.image for triple in self.triples)

    def list_texts(self) -> Iterable[str]:
        """Return every caption, correct or wrong."""
        return dict.fromkeys(caption for triple in self.triples for caption in triple.captions)

    def outcomes(self, features: FeatureSource) -> list[Outcome]:
        """Answer both sides of every triple whose image can be decoded."""
        triples = [triple for triple in self.triples if features.is_readable(triple.image)]
        if not triples:
            return []
        images = features.image_features([triple.image for triple in triples])
        first, second, wrong = (features.text_features([triple.captions[i] for triple in triples]) for i in range(3))
        margins = {
            "itt": torch.minimum(_cosine(images, first), _cosine(images, second)) - _cosine(images, wrong),
            "tot": _cosine(first, second) - torch.maximum(_cosine(first, wrong), _cosine(second, wrong)),
        }
        return [outcome for side in _SIDES for outcome in self._side_outcomes(side, triples, margins[side])]

    def means(self, accuracy: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``itt`` and ``tot`` over subsets, and their ``average``."""
        sides = {side: [accuracy[subset] for subset in self.subsets if subset.endswith(side)] for side in _SIDES}
        return {side: mean(values) for side, values in sides.items() if values} | super().means(accuracy)

    def survey_parts(self) -> Mapping[str, int | None]:
        """Return the files with their published counts; the two sides of a subset share a file."""
        return {file: _COUNTS[file] for file in dict.fromkeys(subset.split("/")[0] for subset in self.subsets)}

    def survey_part(self, part: str) -> tuple[int, Iterable[ImageRef]]:
        """Return the number of triples of a file, and their images."""
        triples = self.read(part)
        return len(triples), (triple.image for triple in triples)

    def _side_outcomes(self, side: str, triples: Sequence[_Triple], margins: Tensor) -> Iterable[Outcome]:
        correct, tied = correct_and_tied(margins)
        for triple, is_correct, is_tie, margin in zip(
            triples, correct.tolist(), tied.tolist(), margins.tolist(), strict=True
        ):
            if f"{triple.subset}/{side}" in self.subsets:
                yield Outcome(
                    subset=f"{triple.subset}/{side}",
                    item=triple.item,
                    correct=is_correct,
                    tie=is_tie,
                    margin=margin,
                    chance=1 / 3,  # the wrong caption is the worst of three
                    image=triple.image.name,
                    caption=" | ".join(triple.captions[:2]),
                    rival=triple.captions[2],
                )


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    return torch.einsum("nd,nd->n", first, second)
