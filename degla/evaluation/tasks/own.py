"""Your own benchmark: a file of JSON lines with ``image``, ``captions`` and ``label``."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, TypeAdapter, model_validator

from degla.errors import ConfigError
from degla.evaluation.choice_task import ChoiceTask
from degla.evaluation.items import Choice, ImageRef
from degla.evaluation.schemas import Captions, ForeignModel, ItemId, Text, is_json_error, validated
from degla.evaluation.scoring import Ties


class _Line(ForeignModel):
    image: Text
    captions: Captions
    label: Annotated[int, Field(ge=0)]
    id: ItemId = None
    subset: ItemId = None
    group: ItemId = None

    @model_validator(mode="after")
    def _label_names_a_caption(self) -> Self:
        if self.label >= len(self.captions):
            raise ValueError(f"label {self.label} of {len(self.captions)} captions")
        return self


_LINE = TypeAdapter(_Line)


class Own(ChoiceTask):
    """Items of your own, each with one image and any number of captions.

    Args:
        path: the file. A line holds ``image``, ``captions`` (a list) and ``label`` (index of the correct caption,
            from 0), and may hold ``id``, ``subset`` and ``group``.
        images: folder of the images; None is the folder of the file.
        name: its name in results.
        subsets: the subsets to measure; None measures all that the file names.
        ties: ``lost``; there is no other rule.

    Raises:
        ConfigError: the file is missing, or a line has the wrong form.
    """

    def __init__(
        self,
        path: str | None,
        images: str | None = None,
        name: str = "own",
        subsets: Sequence[str] | None = None,
        ties: Ties = "lost",
    ):
        if path is None:
            raise ConfigError(f"benchmark.{name}.path is not set: a file of JSON lines (docs/evaluation.md)")
        file = Path(path)
        if not file.is_file():
            raise ConfigError(f"benchmark.{name}: there is no file {file} (items); set benchmark.{name}.path")
        folder = Path(images) if images else file.parent
        self._by_subset: dict[str, list[Choice]] = {}
        for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
            if line.strip():
                choice = _read_choice(line, folder, f"{path}:{number}", number)
                self._by_subset.setdefault(choice.subset, []).append(choice)
        if not self._by_subset:
            raise ConfigError(f"benchmark.{name}.path: {path} holds no item")
        super().__init__(
            name,
            subsets,
            ties,
            official_counts=dict.fromkeys(self._by_subset),
            download_hint=f"set benchmark.{name}.path",
        )
        self.read_file(file, "items")  # adds the file's hash to the protocol

    def read(self, subset: str) -> list[Choice]:
        """Return the items of a subset."""
        return self._by_subset[subset]


def _read_choice(line: bytes, images: Path, where: str, number: int) -> Choice:
    try:
        item = validated(_LINE, json.loads(line))
    except (ValueError, RecursionError) as error:
        reason = f"is not JSON ({error})" if is_json_error(error) else str(error)
        raise ConfigError(f"{where}: {reason}; a line is {{image, captions: [...], label}}") from error
    correct, others = item.captions[item.label], item.captions[: item.label] + item.captions[item.label + 1 :]
    return Choice(
        subset=("all" if item.subset is None else str(item.subset)).replace(":", "/"),
        item=str(number if item.id is None else item.id),
        image=ImageRef(str(images / item.image)),
        captions=(correct, *others),
        group="" if item.group is None else str(item.group),
    )
