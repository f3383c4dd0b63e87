"""ARO (Yuksekgonul et al. 2023): relations, attributes and word order."""

from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from degla.evaluation.choice_task import ChoiceTask
from degla.evaluation.hub import hub_rows
from degla.evaluation.items import Choice, ImageRef
from degla.evaluation.schemas import ForeignModel, Text
from degla.evaluation.scoring import Ties
from degla.evaluation.tasks.word_order import order_choices

_COUNTS = {"relation": 23937, "attribution": 28748, "coco_order": 25010, "flickr30k_order": 5000}
_ORDERS = ("coco_order", "flickr30k_order")
_HUB = {
    "relation": "ARO-Visual-Relation",
    "attribution": "ARO-Visual-Attribution",
    "coco_order": "ARO-COCO-order",
    "flickr30k_order": "ARO-Flickr-Order",
}
_MIN_PAIR_ITEMS = 25  # a pair of attributes with fewer items is left out of the macro average
_DOWNLOAD_HINT = (
    "Visual Genome part: the Google Drive files of github.com/mertyg/vision-language-models-are-bows (1 GB); "
    "coco_karpathy_test.json and flickr30k_test.json: github.com/salesforce/BLIP; images: COCO val2014 "
    "(cocodataset.org), Flickr30k (a form at shannon.cs.illinois.edu)"
)


class _Pair(ForeignModel):
    image_path: Text
    bbox_x: float
    bbox_y: float
    bbox_w: float
    bbox_h: float
    true_caption: Text
    false_caption: Text


class _Relation(_Pair):
    relation_name: str


class _Attribution(_Pair):
    attributes: list[str]


class _HubPair(ForeignModel):
    image: ImageRef
    true_caption: Text
    false_caption: Text


class _HubOrder(ForeignModel):
    images: ImageRef
    correct_caption: str
    hard_text_1: str
    hard_text_2: str
    hard_text_3: str
    hard_text_4: str

    @property
    def captions(self) -> tuple[str, ...]:
        return self.correct_caption, self.hard_text_1, self.hard_text_2, self.hard_text_3, self.hard_text_4


_RELATIONS = TypeAdapter(list[_Relation])
_ATTRIBUTES = TypeAdapter(list[_Attribution])


class Aro(ChoiceTask):
    """VG-Relation and VG-Attribution as means over relations and pairs of attributes, the two orders over items.

    Relations that hold in both directions (``symmetric_relations.txt``) and pairs of attributes with fewer than 25
    items count for the micro average only, as in the paper.

    Args:
        name: its name in results.
        annotations: folder of ``visual_genome_relation.json`` and ``visual_genome_attribution.json``, and of the
            perturbed captions ``coco_order.json`` and ``flickr30k_order.json``, which are made once where they are
            missing and then read.
        images: folder of the Visual Genome images.
        coco: folder of ``coco_karpathy_test.json`` and ``val2014``.
        flickr30k: folder of ``flickr30k_test.json`` and ``flickr30k-images``.
        hub: read ``<hub>/ARO-...`` with embedded images instead: ``gowitheflow``, or a folder in its layout. These
            copies name neither relations nor attributes, so the micro average is used, which is not comparable.
        subsets: the subsets to measure; None measures all.
        ties: ``original`` counts them as correct in the two orders, whose own code has the correct caption first.
    """

    def __init__(
        self,
        name: str = "aro",
        annotations: str = "data/aro",
        images: str = "data/aro/images",
        coco: str = "data/coco",
        flickr30k: str = "data/flickr30k",
        hub: str | None = None,
        subsets: Sequence[str] | None = None,
        ties: Ties = "lost",
    ):
        super().__init__(
            name,
            subsets,
            ties,
            official_counts=_COUNTS,
            download_hint=_DOWNLOAD_HINT,
            ties_count_as_correct=_ORDERS,
            macro_averaged=("relation", "attribution"),
        )
        self.annotations = Path(annotations)
        self.images = Path(images)
        self.caption_files = {
            "coco_order": Path(coco) / "coco_karpathy_test.json",
            "flickr30k_order": Path(flickr30k) / "flickr30k_test.json",
        }
        self.hub = hub
        self.taggers: dict[str, str] = {}  # order -> the tagger that made its perturbed captions

    def read(self, subset: str) -> list[Choice]:
        """Read the items of a subset."""
        if subset in _ORDERS:
            return self._hub_order(subset) if self.hub else self._order(subset)
        return self._hub_pairs(subset) if self.hub else self._pairs(subset)

    def protocol(self) -> dict[str, Any]:
        """Return the protocol, with the taggers that made the orders."""
        return super().protocol() | {"tagger": self.taggers}

    def _pairs(self, subset: str) -> list[Choice]:
        path, content = self.annotations / f"visual_genome_{subset}.json", "captions and boxes"
        items: Sequence[_Pair]
        if subset == "relation":
            items = relations = self.read_json(path, content, _RELATIONS)
            groups = _relation_groups(relations)
        else:
            items = attributes = self.read_json(path, content, _ATTRIBUTES)
            groups = _attribute_groups(attributes)
        return [
            Choice(
                subset=subset,
                item=str(i),
                image=ImageRef(
                    str(self.images / item.image_path),
                    box=(int(item.bbox_x), int(item.bbox_y), int(item.bbox_w), int(item.bbox_h)),
                ),
                captions=(item.true_caption, item.false_caption),
                group=group,
            )
            for i, (item, group) in enumerate(zip(items, groups, strict=True))
        ]

    def _hub_pairs(self, subset: str) -> list[Choice]:
        rows = hub_rows(self, f"{self.hub}/{_HUB[subset]}", _HubPair)
        return [Choice(subset, str(i), row.image, (row.true_caption, row.false_caption)) for i, row in enumerate(rows)]

    def _order(self, subset: str) -> list[Choice]:
        captions = self.caption_files[subset]
        choices, self.taggers[subset] = order_choices(
            self, subset, captions, captions.parent, self.annotations / f"{subset}.json"
        )
        return choices

    def _hub_order(self, subset: str) -> list[Choice]:
        rows = hub_rows(self, f"{self.hub}/{_HUB[subset]}", _HubOrder)
        self.taggers[subset] = "as published on the hub"
        return [Choice(subset, str(i), row.images, row.captions) for i, row in enumerate(rows)]


def _relation_groups(items: Sequence[_Relation]) -> list[str]:
    symmetric = set(files("degla.evaluation").joinpath("symmetric_relations.txt").read_text().split("\n"))
    return ["" if item.relation_name in symmetric else item.relation_name for item in items]


def _attribute_groups(items: Sequence[_Attribution]) -> list[str]:
    names = ["_".join(item.attributes) for item in items]
    counts = Counter(names)
    return [name if counts[name] >= _MIN_PAIR_ITEMS else "" for name in names]
