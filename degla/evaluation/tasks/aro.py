"""ARO (Yuksekgonul et al. 2023): relations, attributes and the order of words."""

from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from degla.evaluation.hub import hub_rows
from degla.evaluation.items import Choice, ImageRef
from degla.evaluation.scoring import Ties
from degla.evaluation.task import ChoiceTask
from degla.evaluation.tasks.word_order import order_choices

_HUB = {
    "relation": "ARO-Visual-Relation",
    "attribution": "ARO-Visual-Attribution",
    "coco_order": "ARO-COCO-order",
    "flickr30k_order": "ARO-Flickr-Order",
}
_FEWEST = 25  # items of a pair of attributes that counts for the mean


class Aro(ChoiceTask):
    """VG-Relation and VG-Attribution as means over relations and pairs of attributes, the orders over items.

    A relation that holds both ways round (``symmetric_relations.txt``) and a pair of attributes with fewer than
    25 items count for the micro average only, as in the paper.

    Args:
        name: what it is called in results.
        annotations: folder of ``visual_genome_relation.json``, ``visual_genome_attribution.json``, and of
            ``coco_order.json`` and ``flickr30k_order.json``, the spoilt captions, which are made once where they
            are missing and then stay as they are.
        images: folder of the Visual Genome images.
        coco: folder of ``coco_karpathy_test.json`` and ``val2014``.
        flickr30k: folder of ``flickr30k_test.json`` and ``flickr30k-images``.
        hub: read ``<hub>/ARO-...`` with embedded images instead: ``gowitheflow``, or a folder in its layout. It
            names neither relations nor attributes: the micro average stands in, which is another number.
        subsets: which to measure; None measures all.
        ties: ``original`` wins them in the two orders, whose own code has the right caption first.
    """

    official = {"relation": 23937, "attribution": 28748, "coco_order": 25010, "flickr30k_order": 5000}
    won_ties = ("coco_order", "flickr30k_order")
    macro = ("relation", "attribution")
    get_it = (
        "Visual Genome part: the Google Drive files of github.com/mertyg/vision-language-models-are-bows (1 GB); "
        "coco_karpathy_test.json and flickr30k_test.json: github.com/salesforce/BLIP; images: COCO val2014 "
        "(cocodataset.org), Flickr30k (a form at shannon.cs.illinois.edu)"
    )

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
        super().__init__(name, subsets, ties)
        self.annotations = Path(annotations)
        self.images = Path(images)
        self.folders = {"coco_order": Path(coco), "flickr30k_order": Path(flickr30k)}
        self.hub = hub
        self.taggers: dict[str, str] = {}  # what made the spoilt captions

    def read(self, subset: str) -> list[Choice]:
        """The items of a subset."""
        if subset in self.folders:
            return self._hub_order(subset) if self.hub else self._order(subset)
        if self.hub:
            rows = hub_rows(self, f"{self.hub}/{_HUB[subset]}", ("image", "true_caption", "false_caption"))
            return [
                Choice(subset, str(i), row["image"], (row["true_caption"], row["false_caption"]))
                for i, row in enumerate(rows)
            ]
        items = self.read_json(self.annotations / f"visual_genome_{subset}.json", "captions and boxes")
        groups = _relations(items) if subset == "relation" else _attributes(items)
        return [
            Choice(
                subset,
                str(i),
                ImageRef(
                    str(self.images / item["image_path"]),
                    box=tuple(int(item[f"bbox_{side}"]) for side in ("x", "y", "w", "h")),
                ),
                (item["true_caption"], item["false_caption"]),
                group,
            )
            for i, (item, group) in enumerate(zip(items, groups, strict=True))
        ]

    def protocol(self) -> dict[str, Any]:
        """Who tagged the words of the orders besides."""
        return super().protocol() | {"tagger": self.taggers}

    def _order(self, subset: str) -> list[Choice]:
        folder = self.folders[subset]
        file = "coco_karpathy_test.json" if subset == "coco_order" else "flickr30k_test.json"
        choices, self.taggers[subset] = order_choices(
            self, subset, folder / file, folder, self.annotations / f"{subset}.json"
        )
        return choices

    def _hub_order(self, subset: str) -> list[Choice]:
        columns = ("images", "correct_caption", *(f"hard_text_{i}" for i in range(1, 5)))
        rows = hub_rows(self, f"{self.hub}/{_HUB[subset]}", columns)
        self.taggers[subset] = "as published on the hub"
        return [Choice(subset, str(i), row["images"], tuple(row[c] for c in columns[1:])) for i, row in enumerate(rows)]


def _relations(items: list[dict]) -> list[str]:
    symmetric = set(files("degla.evaluation").joinpath("symmetric_relations.txt").read_text().split("\n"))
    return ["" if item["relation_name"] in symmetric else item["relation_name"] for item in items]


def _attributes(items: list[dict]) -> list[str]:
    names = ["_".join(item["attributes"]) for item in items]
    counts = Counter(names)
    return [name if counts[name] >= _FEWEST else "" for name in names]
