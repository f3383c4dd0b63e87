"""A benchmark of one's own: JSON lines of ``image, captions, label``."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from degla.errors import ConfigError
from degla.evaluation.items import Choice, ImageRef
from degla.evaluation.scoring import Ties
from degla.evaluation.task import ChoiceTask, stated


class Own(ChoiceTask):
    """Choose the caption of an image among any number.

    Args:
        path: the file; a line holds ``image``, ``captions`` (a list), ``label`` (which is right, from 0), and
            may hold ``id``, ``subset`` and ``group``.
        images: folder of the images; None is that of the file.
        name: what it is called in results.
        subsets: which to measure; None measures all that the file names.
        ties: ``lost``; there is no other rule.

    Raises:
        ConfigError: missing, or a line that is not of this form.
    """

    get_it = "set benchmark.own.path to your file (docs/evaluation.md)"

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
        self.name = name
        self.get_it = f"set benchmark.{name}.path"
        self.sources = {}
        self.images = Path(images) if images else Path(path).parent
        self._by_subset: dict[str, list[Choice]] = {}
        for number, line in enumerate(self.read_file(Path(path), "items").decode("utf-8").split("\n"), 1):
            if line.strip():
                choice = self._choice(line, f"{path}:{number}", number)
                self._by_subset.setdefault(choice.subset, []).append(choice)
        if not self._by_subset:
            raise ConfigError(f"benchmark.{name}.path: {path} holds no item")
        self.official: Mapping[str, int | None] = dict.fromkeys(self._by_subset)
        sources = self.sources
        super().__init__(name, subsets, ties)
        self.sources = sources

    def read(self, subset: str) -> list[Choice]:
        """The items of a subset."""
        return self._by_subset[subset]

    def _choice(self, line: str, where: str, number: int) -> Choice:
        try:
            item = json.loads(line)
            captions, label = item["captions"], item["label"]
            if not 0 <= label < len(captions) or len(captions) < 2:
                raise ValueError(f"label {label} of {len(captions)} captions")
            if not all(isinstance(caption, str) and caption.strip() for caption in captions):
                raise ValueError("an empty caption")
            return Choice(
                str(stated(item, "subset", "all")).replace(":", "/"),
                str(stated(item, "id", number)),
                ImageRef(str(self.images / item["image"])),
                (captions[label], *captions[:label], *captions[label + 1 :]),
                str(stated(item, "group", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{where}: {error!r}; a line is {{image, captions: [...], label}}") from error
