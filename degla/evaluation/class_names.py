"""Class names and prompt templates of zero-shot classification: one table for all sources of the images."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import yaml

from degla.models.imagenet import IMAGENET_CLASSES, IMAGENET_TEMPLATES


class Wording(NamedTuple):
    """The class names and prompt templates of one test set."""

    classes: list[str]
    templates: list[str]  # with {} for the name of the class
    renamed: dict[str, str]  # class name of a source -> ours


def wording(name: str) -> Wording:
    """Return the words for a test set, such as ``flowers102`` or ``imagenet``.

    They are those of CLIP_benchmark and CLIP; ``zeroshot_classes.yaml`` says where they were read.
    """
    if name == "imagenet":
        return Wording(IMAGENET_CLASSES, IMAGENET_TEMPLATES, {})
    return _table()[name]


def class_indices(name: str, source_names: Sequence[str]) -> list[int]:
    """Return the index in our table for each class of a source, so that sources may order their classes differently.

    Args:
        name: the test set.
        source_names: the class names of the source, in its order.

    Raises:
        ValueError: a name that the table does not have.
    """
    words = wording(name)
    if name == "imagenet":  # two pairs of its classes have the same name, so only the order tells them apart
        if len(source_names) > len(words.classes):
            raise ValueError(f"it has {len(source_names)} classes, not {len(words.classes)}")
        return list(range(len(source_names)))
    by_name = {_key(class_name): i for i, class_name in enumerate(words.classes)}
    by_name |= {_key(other): by_name[_key(ours)] for other, ours in words.renamed.items()}
    unknown = [source_name for source_name in source_names if _key(source_name) not in by_name]
    if unknown:
        raise ValueError(f"its class {unknown[0]!r} is not in degla/evaluation/zeroshot_classes.yaml")
    return [by_name[_key(source_name)] for source_name in source_names]


def _key(name: str) -> str:
    """Return the form that two spellings of a class share: folders have ``_`` and ``/`` where a name has spaces."""
    return " ".join(name.replace("_", " ").replace("/", " ").casefold().split())


@cache
def _table() -> dict[str, Wording]:
    content = yaml.safe_load(files("degla.evaluation").joinpath("zeroshot_classes.yaml").read_text(encoding="utf-8"))
    return {
        name: Wording(entry["classes"], entry["templates"], entry.get("renamed", {})) for name, entry in content.items()
    }
