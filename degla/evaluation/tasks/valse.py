"""VALSE (Parcalabescu et al. 2022): a caption against its foil, in eleven files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter

from degla.bounds import bounded, whole
from degla.errors import ConfigError
from degla.evaluation.choice_task import ChoiceTask
from degla.evaluation.items import Choice, ImageRef, Outcome
from degla.evaluation.schemas import ForeignModel, LooseInt, Text
from degla.evaluation.scoring import Ties
from degla.evaluation.task import FeatureSource, mean

_COUNTS = {
    "existence": 505,
    "plurals": 851,
    "counting-hard": 868,
    "counting-small-quant": 900,
    "counting-adversarial": 691,
    "relations": 535,
    "action-replacement": 648,
    "actant-swap": 949,
    "coreference-standard": 708,
    "coreference-hard": 104,
    "foil-it": 943,
}
_COUNTING = ("counting-hard", "counting-small-quant", "counting-adversarial")
_UNSEEN = "coreference-standard-unseen"  # items whose images are not in COCO train2014
# Start of an image's file name -> the source of the image. Other names are COCO val2017's numbers, or SWiG's.
_SOURCES = {
    "COCO_train2014_": "coco_train2014",
    "COCO_val2014_": "coco_val2014",
    "VisualDialog_": "visdial",
    "v7w_": "visual7w",
}
_DOWNLOAD_HINT = (
    "captions: github.com/Heidelberg-NLP/VALSE, data/; images: COCO 2014 and 2017 (cocodataset.org), Visual7W "
    "(ai.stanford.edu/~yukez/visual7w), SWiG (github.com/allenai/swig), VisDial val2018 (visualdialog.org)"
)


class _Votes(ForeignModel):
    caption: LooseInt


class _Item(ForeignModel):
    image_file: Text
    caption: Text
    foil: Text
    mturk: _Votes


_FILE = TypeAdapter(dict[str, _Item])


class Valse(ChoiceTask):
    """Pairwise accuracy on the items that at least two of three annotators found valid.

    Args:
        name: its name in results.
        annotations: folder of the eleven JSON files.
        images: source of images -> folder. The sources are ``coco_train2014``, ``coco_val2014``, ``coco_val2017``,
            ``visual7w``, ``swig`` and ``visdial``.
        min_votes: number of annotators who chose the caption; every paper uses 2.
        subsets: the files to measure; None measures all.
        ties: the published scripts lose ties as well.
    """

    @bounded("benchmark")
    def __init__(
        self,
        name: str = "valse",
        annotations: str = "data/valse",
        images: dict[str, str] | None = None,
        min_votes: Annotated[int, whole(0, 3)] = 2,
        subsets: Sequence[str] | None = None,
        ties: Ties = "lost",
    ):
        super().__init__(name, subsets, ties, official_counts=_COUNTS, download_hint=_DOWNLOAD_HINT)
        self.annotations = Path(annotations)
        self.images = {source: Path(folder) for source, folder in (images or {}).items()}
        self.min_votes = min_votes

    def read(self, subset: str) -> list[Choice]:
        """Read the valid items of a file."""
        items = self.read_json(self.annotations / f"{subset}.json", "captions and foils", _FILE)
        return [
            Choice(subset, key, self._image(item.image_file), (item.caption, item.foil))
            for key, item in items.items()
            if item.mturk.caption >= self.min_votes
        ]

    def outcomes(self, features: FeatureSource) -> list[Outcome]:
        """Answer every item; the coreference items on images outside COCO train2014 are listed once more."""
        outcomes = super().outcomes(features)
        return outcomes + [
            outcome._replace(subset=_UNSEEN)
            for outcome in outcomes
            if outcome.subset == "coreference-standard" and "train2014" not in Path(outcome.image).name
        ]

    def means(self, accuracy: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``counting``, the column of DeGLA's Table 2, and ``average`` over the files, three of which count."""
        means = super().means(accuracy)
        if set(_COUNTING) <= set(self.subsets):
            means = {"counting": mean(accuracy[subset] for subset in _COUNTING)} | means
        return means

    def protocol(self) -> dict[str, Any]:
        """Return the protocol, with the rule for valid items."""
        return super().protocol() | {"min_votes": self.min_votes}

    def _image(self, name: str) -> ImageRef:
        """Find the source of an image by its file name."""
        source = next((source for start, source in _SOURCES.items() if name.startswith(start)), None)
        if source is None:
            source = "coco_val2017" if Path(name).stem.isdigit() else "swig"
        if source not in self.images:
            raise ConfigError(f"benchmark.{self.name}.images has no folder for {source}, the source of {name}")
        return ImageRef(str(self.images[source] / name))
