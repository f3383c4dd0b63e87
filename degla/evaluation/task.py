"""What every benchmark has in common, and the ones that choose among captions."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from degla.data.schema import Problem
from degla.errors import ConfigError
from degla.evaluation.items import Choice, ImageRef, Outcome
from degla.evaluation.scoring import Ties, choice_margins, judged


class Features(Protocol):
    """Where a task finds its features; ``FeatureStore`` is one, ``Blind`` another."""

    def image_features(self, images: Sequence[ImageRef]) -> Tensor:
        """``(N, D)``, unit norm."""

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """``(N, D)``, unit norm."""

    def is_readable(self, image: ImageRef) -> bool:
        """Whether the image could be decoded."""


class Survey(NamedTuple):
    """What of a subset is on this machine."""

    subset: str
    num_items: int  # 0 where the annotations are missing
    official: int | None  # None where there is no official count
    num_images: int
    num_found: int
    missing: str  # the first thing that is not there, "" where all is
    get_it: str


class Task(ABC):
    """A benchmark.

    Args:
        name: what it is called in results; a config's key by default.
        subsets: which parts to measure; None measures all.
        ties: ``lost``, or ``original``: each subset by the rule of the benchmark's own code.

    Raises:
        ValueError: an unknown subset.
    """

    official: ClassVar[Mapping[str, int | None]] = {}  # subset -> items in the published data
    won_ties: ClassVar[tuple[str, ...]] = ()  # subsets whose own code counts a tie as right
    macro: ClassVar[tuple[str, ...]] = ()  # subsets whose headline is a mean over groups
    get_it: ClassVar[str] = ""  # where the data are had

    def __init__(self, name: str, subsets: Sequence[str] | None = None, ties: Ties = "lost"):
        unknown = [subset for subset in subsets or () if subset not in self.official]
        if unknown:
            raise ValueError(f"there is no subset {unknown[0]} of {name}: choose among {', '.join(self.official)}")
        self.name = name
        self.subsets = tuple(subsets or self.official)
        self.ties = ties
        self.problems: list[Problem] = []
        self.sources: dict[str, str] = {}  # file -> hash, filled while reading

    @abstractmethod
    def list_images(self) -> Iterable[ImageRef]:
        """Every image that is asked about."""

    @abstractmethod
    def list_texts(self) -> Iterable[str]:
        """Every text that is compared."""

    @abstractmethod
    def outcomes(self, features: Features) -> list[Outcome]:
        """How each item was answered; items whose image cannot be shown are left out."""

    @abstractmethod
    def survey(self) -> list[Survey]:
        """What is here and what is missing."""

    def means(self, accuracy: Mapping[str, Any]) -> dict[str, Any]:
        """Means over subsets, ``average`` among them: the task in one number.

        Args:
            accuracy: subset -> headline accuracy, and ``<subset>:micro`` and ``<subset>:macro``; numbers or arrays.
        """
        return {"average": mean(accuracy[subset] for subset in self.subsets)}

    def protocol(self) -> dict[str, Any]:
        """What besides the model decides a score: rules, and the data as they were read."""
        known = {"subsets": list(self.subsets), "ties": self.ties, "data": dict(sorted(self.sources.items()))}
        return known | {"macro": sorted({*self.macro} & {*self.subsets})}

    def read_file(self, path: Path, what: str) -> bytes:
        """The bytes of an annotation file, whose hash becomes part of the protocol.

        Raises:
            ConfigError: it is not there.
        """
        if not path.is_file():
            raise ConfigError(f"benchmark.{self.name}: there is no file {path} ({what}); {self.get_it}")
        data = path.read_bytes()
        self.sources[path.name] = hashlib.sha256(data).hexdigest()[:16]
        return data

    def read_json(self, path: Path, what: str) -> Any:
        """Its content.

        Raises:
            ConfigError: it is not there, or no JSON.
        """
        try:
            return json.loads(self.read_file(path, what))
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"benchmark.{self.name}: {path} is no JSON ({error}); {self.get_it}") from error

    def read_lines(self, path: Path, what: str) -> list[dict]:
        """The objects of a file of JSON lines.

        Raises:
            ConfigError: it is not there, or a line is no JSON.
        """
        rows = []
        for number, line in enumerate(self.read_file(path, what).split(b"\n"), 1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except ValueError as error:
                    raise ConfigError(f"benchmark.{self.name}: {path}:{number} is no JSON ({error})") from error
        return rows

    def drop_repeated(self, choices: list[Choice]) -> list[Choice]:
        """One item a name; the others are named in ``problems``."""
        counts = Counter((choice.subset, choice.item) for choice in choices)
        for (subset, item), count in counts.items():
            if count > 1:
                self.problems.append(
                    Problem(f"{subset}/{item}", f"{count} items of this name, the first is used", True)
                )
        return list({(choice.subset, choice.item): choice for choice in reversed(choices)}.values())[::-1]


class ChoiceTask(Task):
    """A benchmark whose every item is one image and captions, of which one is right."""

    @abstractmethod
    def read(self, subset: str) -> list[Choice]:
        """The items of a subset.

        Raises:
            ConfigError: its files are missing or malformed.
        """

    @property
    def choices(self) -> list[Choice]:
        """All items, read once."""
        if not hasattr(self, "_choices"):
            self._choices = [choice for subset in self.subsets for choice in self.drop_repeated(self.read(subset))]
        return self._choices

    def list_images(self) -> Iterable[ImageRef]:
        """Every image that is asked about."""
        return dict.fromkeys(choice.image for choice in self.choices)

    def list_texts(self) -> Iterable[str]:
        """Every caption, right or wrong."""
        return dict.fromkeys(caption for choice in self.choices for caption in choice.captions)

    def outcomes(self, features: Features) -> list[Outcome]:
        """Right where the image is closer to the right caption than to every other."""
        return choice_outcomes(self.choices, features, self.wins_ties)

    def wins_ties(self, subset: str) -> bool:
        """Whether a tie counts as right."""
        return self.ties == "original" and subset in self.won_ties

    def survey(self) -> list[Survey]:
        """What is here and what is missing, subset by subset."""
        rows = []
        for subset in self.subsets:
            try:
                choices = self.read(subset)
            except ConfigError as error:
                rows.append(Survey(subset, 0, self.official[subset], 0, 0, str(error), self.get_it))
                continue
            images = {choice.image for choice in choices}
            rows.append(surveyed(subset, len(choices), self.official[subset], images, self.get_it))
        return rows


def surveyed(subset: str, num_items: int, official: int | None, images: Iterable[ImageRef], get_it: str) -> Survey:
    """Look for the files of images."""
    images = list(images)
    absent = [image.name for image in images if image.data is None and not Path(image.path).is_file()]
    return Survey(
        subset, num_items, official, len(images), len(images) - len(absent), absent[0] if absent else "", get_it
    )


def choice_outcomes(
    choices: Sequence[Choice], features: Features, wins_ties: Callable[[str], bool] = lambda subset: False
) -> list[Outcome]:
    """Answer every choice whose image can be shown.

    Args:
        choices: of any number of captions each.
        features: of all their images and captions.
        wins_ties: subset -> whether a tie counts as right there.
    """
    found: list[Outcome | None] = [None] * len(choices)
    by_count: dict[int, list[int]] = {}
    for place, choice in enumerate(choices):
        if features.is_readable(choice.image):
            by_count.setdefault(len(choice.captions), []).append(place)
    for count, places in by_count.items():
        for start in range(0, len(places), 4096):
            part = [choices[place] for place in places[start : start + 4096]]
            texts = features.text_features([caption for choice in part for caption in choice.captions])
            images = features.image_features([choice.image for choice in part])
            margins, rivals = choice_margins(images, texts.unflatten(0, (len(part), count)))
            rights, ties = judged(margins)
            columns = zip(
                places[start : start + 4096],
                part,
                rights.tolist(),
                ties.tolist(),
                margins.tolist(),
                rivals.tolist(),
                strict=True,
            )
            for place, choice, right, tie, margin, rival in columns:
                found[place] = Outcome(
                    choice.subset,
                    choice.item,
                    right or (tie and wins_ties(choice.subset)),
                    tie,
                    margin,
                    1 / count,
                    choice.image.name,
                    choice.captions[0],
                    choice.captions[rival],
                    choice.group,
                )
    return [outcome for outcome in found if outcome is not None]


def stated(row: Mapping[str, Any], key: str, default: Any) -> Any:
    """What the row says; a null says nothing."""
    return default if row.get(key) is None else row[key]


def mean(values: Iterable[Any]) -> Any:
    """Plain mean of numbers, or of arrays element by element."""
    values = list(values)
    return fmean(values) if isinstance(values[0], float | int) else sum(values) / len(values)
