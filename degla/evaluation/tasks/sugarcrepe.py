"""SugarCrepe (Hsieh et al. 2023): a caption against one fluent but wrong caption."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from degla.evaluation.choice_task import ChoiceTask
from degla.evaluation.hub import hub_rows
from degla.evaluation.items import Choice, ImageRef
from degla.evaluation.schemas import Captions, ForeignModel, Text
from degla.evaluation.scoring import Ties
from degla.evaluation.task import mean

_COUNTS = {
    "add_att": 692,
    "add_obj": 2062,
    "replace_att": 788,
    "replace_obj": 1652,
    "replace_rel": 1406,
    "swap_att": 666,
    "swap_obj": 245,
}
_FAMILIES = {
    "replace": ("replace_obj", "replace_att", "replace_rel"),
    "swap": ("swap_obj", "swap_att"),
    "add": ("add_obj", "add_att"),
}


class _Item(ForeignModel):
    filename: Text
    caption: Text
    negative_caption: Text


class _HubRow(ForeignModel):
    image: ImageRef
    tested_labels: Captions


_FILE = TypeAdapter(dict[str, _Item])


class SugarCrepe(ChoiceTask):
    """SugarCrepe's seven subsets on COCO val2017.

    Args:
        name: its name in results.
        annotations: folder of the seven JSON files.
        images: folder of COCO val2017.
        hub: read ``<hub>/SugarCrepe_<subset>`` with embedded images instead: a hub account such as
            ``HuggingFaceM4``, or a folder in its layout.
        subsets: the subsets to measure; None measures all.
        ties: the benchmark's own code loses ties as well.
    """

    def __init__(
        self,
        name: str = "sugarcrepe",
        annotations: str = "data/sugarcrepe",
        images: str = "data/coco/val2017",
        hub: str | None = None,
        subsets: Sequence[str] | None = None,
        ties: Ties = "lost",
    ):
        super().__init__(
            name,
            subsets,
            ties,
            official_counts=_COUNTS,
            download_hint=(
                "captions: github.com/RAIVNLab/sugar-crepe, data/; images: COCO val2017 (cocodataset.org, 1 GB)"
            ),
        )
        self.annotations = Path(annotations)
        self.images = Path(images)
        self.hub = hub

    def read(self, subset: str) -> list[Choice]:
        """Read the items of a subset; the keys of ``swap_obj`` have a gap."""
        if self.hub:
            rows = hub_rows(self, f"{self.hub}/SugarCrepe_{subset}", _HubRow)
            return [Choice(subset, str(i), row.image, tuple(row.tested_labels)) for i, row in enumerate(rows)]
        items = self.read_json(self.annotations / f"{subset}.json", "captions", _FILE)
        return [
            Choice(
                subset=subset,
                item=key,
                image=ImageRef(str(self.images / item.filename)),
                captions=(item.caption, item.negative_caption),
            )
            for key, item in items.items()
        ]

    def means(self, accuracy: Mapping[str, Any]) -> dict[str, Any]:
        """Return the families of DeGLA's Table 3, ``average`` over the subsets, and ``micro`` over items."""
        means = {
            family: mean(accuracy[subset] for subset in members)
            for family, members in _FAMILIES.items()
            if set(members) <= set(self.subsets)
        }
        weights = {subset: sum(choice.subset == subset for choice in self.choices) for subset in self.subsets}
        micro = sum(accuracy[subset] * weight for subset, weight in weights.items()) / sum(weights.values())
        return {**means, **super().means(accuracy), "micro": micro}
