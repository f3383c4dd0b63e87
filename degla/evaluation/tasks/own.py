"""Your own benchmark: a file of JSON lines with ``image``, ``captions`` and ``label``."""

import json
from collections.abc import Sequence
from pathlib import Path

from degla.errors import ConfigError
from degla.evaluation.choice_task import ChoiceTask
from degla.evaluation.items import Choice, ImageRef
from degla.evaluation.scoring import Ties
from degla.evaluation.task import value_or


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
        ConfigError: the file is missing, or a line has another form.
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
        for number, line in enumerate(file.read_bytes().decode("utf-8").split("\n"), 1):
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


def _read_choice(line: str, images: Path, where: str, number: int) -> Choice:
    try:
        item = json.loads(line)
        captions, label = item["captions"], item["label"]
        if not 0 <= label < len(captions) or len(captions) < 2:
            raise ValueError(f"label {label} of {len(captions)} captions")
        if not all(isinstance(caption, str) and caption.strip() for caption in captions):
            raise ValueError("an empty caption")
        return Choice(
            subset=str(value_or(item, "subset", "all")).replace(":", "/"),
            item=str(value_or(item, "id", number)),
            image=ImageRef(str(images / item["image"])),
            captions=(captions[label], *captions[:label], *captions[label + 1 :]),
            group=str(value_or(item, "group", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error!r}; a line is {{image, captions: [...], label}}") from error
