"""The base class of all benchmarks."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, Protocol, TypeVar

from pydantic import TypeAdapter
from torch import Tensor

from degla.data.schema import Problem
from degla.errors import ConfigError
from degla.evaluation.items import ImageRef, Outcome
from degla.evaluation.schemas import is_json_error, validated
from degla.evaluation.scoring import Ties

T = TypeVar("T")


class FeatureSource(Protocol):
    """Where a task gets its features from: ``FeatureStore``, or ``NoImageFeatures`` for the no-image baseline."""

    def image_features(self, images: Sequence[ImageRef]) -> Tensor:
        """Return the ``(N, D)`` features of images, unit norm."""

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Return the ``(N, D)`` features of texts, unit norm."""

    def is_readable(self, image: ImageRef) -> bool:
        """Return whether the image could be decoded."""


class Survey(NamedTuple):
    """The counts of one part of a benchmark on this machine."""

    part: str
    num_items: int  # 0 where the annotations are missing
    official_count: int | None  # None where no count is published
    num_images: int
    num_found: int  # images whose file exists
    missing: str  # the first thing that is missing, "" where nothing is
    download_hint: str


class Task(ABC):
    """A benchmark.

    Args:
        name: its name in results; the config's key by default.
        subsets: the subsets to measure; None measures all.
        ties: ``lost``, or ``original``: each subset by the rule of the benchmark's own code.
        official_counts: subset -> number of items in the published data, None where no count is published.
        download_hint: where the data can be downloaded.
        ties_count_as_correct: subsets whose own code counts a tie as correct.
        macro_averaged: subsets whose headline is a mean over groups.

    Attributes:
        problems: what is wrong with single items; filled while they are read.
        sources: file -> hash; filled while files are read.

    Raises:
        ConfigError: a subset that does not exist.
    """

    def __init__(
        self,
        name: str,
        subsets: Sequence[str] | None = None,
        ties: Ties = "lost",
        *,
        official_counts: Mapping[str, int | None],
        download_hint: str = "",
        ties_count_as_correct: Sequence[str] = (),
        macro_averaged: Sequence[str] = (),
    ):
        unknown = [subset for subset in subsets or () if subset not in official_counts]
        if unknown:
            raise ConfigError(
                f"benchmark.{name}.subsets: there is no subset {unknown[0]} of {name}: "
                f"choose among {', '.join(official_counts)}"
            )
        self.name = name
        self.subsets = tuple(subsets or official_counts)
        self.ties = ties
        self.official_counts = dict(official_counts)
        self.download_hint = download_hint
        self.ties_count_as_correct = tuple(ties_count_as_correct)
        self.macro_averaged = tuple(macro_averaged)
        self.problems: list[Problem] = []
        self.sources: dict[str, str] = {}

    @abstractmethod
    def list_images(self) -> Iterable[ImageRef]:
        """Return every image of the items."""

    @abstractmethod
    def list_texts(self) -> Iterable[str]:
        """Return every text that is compared."""

    @abstractmethod
    def outcomes(self, features: FeatureSource) -> list[Outcome]:
        """Answer every item; items whose image cannot be decoded are left out."""

    @abstractmethod
    def survey_part(self, part: str) -> tuple[int, Iterable[ImageRef]]:
        """Return the number of items of a part of the benchmark, and their images.

        Raises:
            ConfigError: its annotations are missing or malformed.
        """

    def survey_parts(self) -> Mapping[str, int | None]:
        """Return the parts that ``survey`` lists, with their published counts; the subsets by default."""
        return {subset: self.official_counts[subset] for subset in self.subsets}

    def survey(self) -> list[Survey]:
        """Return what is on this machine and what is missing, part by part."""
        rows = []
        for part, official_count in self.survey_parts().items():
            try:
                num_items, images = self.survey_part(part)
            except ConfigError as error:
                rows.append(Survey(part, 0, official_count, 0, 0, str(error), self.download_hint))
                continue
            distinct = list(dict.fromkeys(images))
            absent = [image.name for image in distinct if not image.exists()]
            rows.append(
                Survey(
                    part=part,
                    num_items=num_items,
                    official_count=official_count,
                    num_images=len(distinct),
                    num_found=len(distinct) - len(absent),
                    missing=absent[0] if absent else "",
                    download_hint=self.download_hint,
                )
            )
        return rows

    def means(self, accuracy: Mapping[str, Any]) -> dict[str, Any]:
        """Return means over subsets; ``average`` summarises the task in one number.

        Args:
            accuracy: subset -> headline accuracy, and ``<subset>:micro`` and ``<subset>:macro``; numbers or arrays.
        """
        return {"average": mean(accuracy[subset] for subset in self.subsets)}

    def protocol(self) -> dict[str, Any]:
        """Return everything except the model that decides a score: the rules, and hashes of the data."""
        return {
            "subsets": list(self.subsets),
            "ties": self.ties,
            "data": dict(sorted(self.sources.items())),
            "macro": sorted({*self.macro_averaged} & {*self.subsets}),
        }

    def read_file(self, path: Path, content: str) -> bytes:
        """Return the bytes of an annotation file; its hash becomes part of the protocol.

        Args:
            path: the file.
            content: what the file holds, for the message.

        Raises:
            ConfigError: the file is missing.
        """
        if not path.is_file():
            raise ConfigError(f"benchmark.{self.name}: there is no file {path} ({content}); {self.download_hint}")
        data = path.read_bytes()
        self.sources[path.name] = hashlib.sha256(data).hexdigest()[:16]
        return data

    def read_json(self, path: Path, content: str, adapter: TypeAdapter[T]) -> T:
        """Return the value that a JSON file holds, as the type that the adapter describes.

        Args:
            path: the file.
            content: what the file holds, for the message.
            adapter: of the expected type.

        Raises:
            ConfigError: the file is missing, is not JSON, or holds something else.
        """
        data = self.read_file(path, content)
        try:
            return validated(adapter, json.loads(data))
        except (ValueError, RecursionError) as error:
            reason = f"is not JSON ({error})" if is_json_error(error) else f"does not hold {content}: {error}"
            raise ConfigError(f"benchmark.{self.name}: {path} {reason}; {self.download_hint}") from error

    def read_lines(self, path: Path, content: str, adapter: TypeAdapter[T]) -> list[T]:
        """Return the values of a file of JSON lines, each as the type that the adapter describes.

        Args:
            path: the file.
            content: what the file holds, for the message.
            adapter: of the expected type of a line.

        Raises:
            ConfigError: the file is missing, or a line is not JSON or holds something else.
        """
        rows = []
        for number, line in enumerate(self.read_file(path, content).split(b"\n"), 1):
            if line.strip():
                try:
                    rows.append(validated(adapter, json.loads(line)))
                except (ValueError, RecursionError) as error:
                    reason = f"is not JSON ({error})" if is_json_error(error) else str(error)
                    raise ConfigError(f"benchmark.{self.name}: {path}:{number}: {reason}") from error
        return rows

    def check_items(self) -> None:
        """Check that there are items, and that their images and texts have the right types.

        Raises:
            ConfigError: there is no item, or one cannot be scored.
        """
        num_images = 0
        for image in self.list_images():
            num_images += 1
            if not isinstance(image, ImageRef):
                raise ConfigError(f"benchmark.{self.name}: an image is {image!r}, not a file")
        if not num_images:
            raise ConfigError(f"benchmark.{self.name} holds no items; {self.download_hint}")
        for text in self.list_texts():
            if not isinstance(text, str):
                raise ConfigError(f"benchmark.{self.name}: the caption {text!r} is not a string")


def mean(values: Iterable[Any]) -> Any:
    """Return the mean of numbers, or of arrays element by element."""
    values = list(values)
    return fmean(values) if isinstance(values[0], float | int) else sum(values) / len(values)
