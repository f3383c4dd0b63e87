"""SugarCrepe++ (Dumpala et al. 2024): two true captions in different words against a false one."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from degla.errors import ConfigError
from degla.evaluation.items import ImageRef, Outcome
from degla.evaluation.scoring import Ties, judged
from degla.evaluation.task import Features, Survey, Task, mean, surveyed

# Subset -> its name in the published files, misspelling included.
_FILES = {
    "replace_att": ("replace_attribute",),
    "replace_obj": ("replace_object",),
    "replace_rel": ("replace_relation",),
    "swap_att": ("swap_atribute", "swap_attribute"),
    "swap_obj": ("swap_object",),
}


class _Triple(NamedTuple):
    subset: str
    item: str
    image: ImageRef
    captions: tuple[str, str, str]  # true, true, false


class SugarCrepePP(Task):
    """Image-to-text (``itt``: both true captions beat the false one) and text-only (``tot``: they are closer to
    each other than either to the false one).

    Args:
        name: what it is called in results.
        annotations: folder of the five JSON files: lists of ``id, filename, caption, caption2, negative_caption``.
        images: folder of COCO val2017.
        subsets: such as ``replace_obj/itt``; None measures all.
        ties: the benchmark's own code loses ties as well.
    """

    official = {
        f"{subset}/{side}": count
        for subset, count in {
            "replace_att": 788,
            "replace_obj": 1652,
            "replace_rel": 1406,
            "swap_att": 666,
            "swap_obj": 245,
        }.items()
        for side in ("itt", "tot")
    }
    get_it = "captions: huggingface.co/datasets/Aman-J/SugarCrepe_pp; images: COCO val2017 (cocodataset.org, 1 GB)"

    def __init__(
        self,
        name: str = "sugarcrepe_pp",
        annotations: str = "data/sugarcrepe_pp",
        images: str = "data/coco/val2017",
        subsets: Sequence[str] | None = None,
        ties: Ties = "lost",
    ):
        super().__init__(name, subsets, ties)
        self.annotations = Path(annotations)
        self.images = Path(images)

    def read(self, subset: str) -> list[_Triple]:
        """The triples of ``replace_obj`` and the like."""
        path = next(
            (path for stem in _FILES[subset] if (path := self.annotations / f"{stem}.json").is_file()),
            self.annotations / f"{_FILES[subset][0]}.json",
        )
        items = self.read_json(path, "captions")
        return [
            _Triple(
                subset,
                str(item.get("id", i)),
                ImageRef(str(self.images / item["filename"])),
                (item["caption"], item["caption2"], item["negative_caption"]),
            )
            for i, item in enumerate(items.values() if isinstance(items, dict) else items)
        ]

    @property
    def triples(self) -> list[_Triple]:
        """All items, read once."""
        if not hasattr(self, "_triples"):
            kinds = dict.fromkeys(subset.split("/")[0] for subset in self.subsets)
            self._triples = [triple for kind in kinds for triple in self.read(kind)]
        return self._triples

    def list_images(self) -> Iterable[ImageRef]:
        """Every image that is asked about."""
        return dict.fromkeys(triple.image for triple in self.triples)

    def list_texts(self) -> Iterable[str]:
        """Every caption."""
        return dict.fromkeys(caption for triple in self.triples for caption in triple.captions)

    def outcomes(self, features: Features) -> list[Outcome]:
        """Both sides of every triple whose image can be shown."""
        triples = [triple for triple in self.triples if features.is_readable(triple.image)]
        if not triples:
            return []
        images = features.image_features([triple.image for triple in triples])
        first, second, false = (features.text_features([triple.captions[i] for triple in triples]) for i in range(3))

        def cosine(a, b):
            return torch.einsum("nd,nd->n", a, b)

        margins = {
            "itt": torch.minimum(cosine(images, first), cosine(images, second)) - cosine(images, false),
            "tot": cosine(first, second) - torch.maximum(cosine(first, false), cosine(second, false)),
        }
        found = []
        for side, values in margins.items():
            rights, ties = judged(values)
            found += [
                Outcome(
                    f"{triple.subset}/{side}",
                    triple.item,
                    right,
                    tie,
                    margin,
                    1 / 3,  # the false one is the worst of three
                    triple.image.name,
                    " | ".join(triple.captions[:2]),
                    triple.captions[2],
                )
                for triple, right, tie, margin in zip(
                    triples, rights.tolist(), ties.tolist(), values.tolist(), strict=True
                )
                if f"{triple.subset}/{side}" in self.subsets
            ]
        return found

    def means(self, accuracy: Mapping[str, Any]) -> dict[str, Any]:
        """``itt`` and ``tot`` over subsets, and their ``average``."""
        sides = {
            side: [accuracy[subset] for subset in self.subsets if subset.endswith(side)] for side in ("itt", "tot")
        }
        return {side: mean(values) for side, values in sides.items() if values} | super().means(accuracy)

    def survey(self) -> list[Survey]:
        """What is here and what is missing."""
        rows = []
        for kind in dict.fromkeys(subset.split("/")[0] for subset in self.subsets):
            official = self.official[f"{kind}/itt"]
            try:
                triples = self.read(kind)
            except ConfigError as error:
                rows.append(Survey(kind, 0, official, 0, 0, str(error), self.get_it))
                continue
            rows.append(surveyed(kind, len(triples), official, {triple.image for triple in triples}, self.get_it))
        return rows
