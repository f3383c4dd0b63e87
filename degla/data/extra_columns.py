"""Parse the columns of a record besides image, caption and negatives: units, paraphrases, captions, negative images.

Imports neither torch nor ``datasets``.
"""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from degla.data.schema import StoredImage, Unit, describe, list_in_text, text_error


class ExtraColumns(NamedTuple):
    """The parsed columns of one record; what a record does not have is empty."""

    captions: list[str]  # further captions of the image
    units: list[Unit]
    paraphrases: list[str]
    negative_images: list[StoredImage]


NO_EXTRA_COLUMNS = ExtraColumns([], [], [], [])


def extra_columns(record: Mapping[str, Any], image_root: str | Path | None = None) -> ExtraColumns:
    """Parse the columns of a record that are named as in docs/data.md.

    These are ``captions``, ``units``, ``paraphrases`` and ``negative_images``. ``paraphrase`` and ``negative_image``,
    also with a number (``paraphrase_2``), hold one text or image each.

    Args:
        record: column -> value.
        image_root: folder to which paths of images are relative.

    Raises:
        ValueError: a value cannot be read.
    """
    singles = _single_columns(tuple(map(str, record)))
    paraphrases = parse_texts(record.get("paraphrases"), "paraphrases")
    negative_images = parse_images(record.get("negative_images"), "negative_images", image_root)
    for name in singles["paraphrase"]:
        paraphrases += parse_texts(record[name], name)
    for name in singles["negative_image"]:
        negative_images += parse_images(record[name], name, image_root)
    captions = parse_texts(record.get("captions"), "captions")
    return ExtraColumns(captions, parse_units(record.get("units")), paraphrases, negative_images)


@functools.cache
def _single_columns(columns: tuple[str, ...]) -> dict[str, list[str]]:
    """Return, for each base name, the columns of one text or image, in the order of their numbers."""
    result = {}
    for base in ("paraphrase", "negative_image"):
        numbers = {name: match[1] for name in columns if (match := re.fullmatch(rf"{base}_?(\d*)", name))}
        result[base] = sorted(numbers, key=lambda name: (int(numbers[name] or 0), columns.index(name)))
    return result


def parse_units(value: Any) -> list[Unit]:
    """Parse units.

    Args:
        value: a list of ``{text, foil}``, an object of two lists (``{text: [...], foil: [...]}``), either of them as
            JSON, or None.

    Raises:
        ValueError: the value is anything else.
    """
    value = _list_of(value, "units")
    if isinstance(value, dict):
        value = _transposed(value)
    if not isinstance(value, list | tuple):
        raise ValueError(f"units are {describe(value)}, not a list of {{text, foil}}")
    return [_parse_unit(item) for item in value if item is not None]


def _parse_unit(item: object) -> Unit:
    if not isinstance(item, dict) or "text" not in item or "foil" not in item:
        raise ValueError(f"a unit is {describe(item)}, not {{text, foil}}")
    for key in ("text", "foil"):
        if error := text_error(item[key]):
            raise ValueError(f"the {key} of a unit is {error}")
    return Unit(item["text"], item["foil"])


def _transposed(value: dict[Any, Any]) -> object:
    """Turn an object of lists into a list of objects, as ``datasets`` stores a sequence of structs."""
    texts, foils = value.get("text"), value.get("foil")
    if not isinstance(texts, list | tuple) or not isinstance(foils, list | tuple):
        return value
    if len(texts) != len(foils):
        raise ValueError(f"units are {len(texts)} texts and {len(foils)} foils")
    return [{"text": text, "foil": foil} for text, foil in zip(texts, foils, strict=True)]


def parse_texts(value: Any, name: str) -> list[str]:
    """Parse a column of one text or several; empty texts are left out.

    Args:
        value: a text, a list of texts, such a list as JSON or in Python's notation, or None.
        name: of the column, for messages.

    Raises:
        ValueError: the value is anything else.
    """
    if isinstance(value, str) and not value.startswith(("[", "{")):
        value = [value]
    value = _list_of(value, name)
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} is {describe(value)}, not a list of texts")
    for item in value:
        if item is not None and (error := text_error(item)):
            raise ValueError(f"{name} holds {error}")
    return [item for item in value if item and item.strip()]


def parse_images(value: Any, name: str, image_root: str | Path | None = None) -> list[StoredImage]:
    """Parse a column of one image or several.

    Args:
        value: a path, encoded bytes, an object of ``bytes`` and ``path`` as ``datasets`` writes it, a list of these, a
            list of paths as JSON, or None.
        name: of the column, for messages.
        image_root: folder to which paths are relative; None leaves them as they are.

    Raises:
        ValueError: the value is anything else.
    """
    if isinstance(value, bytes | dict) or (isinstance(value, str) and not value.startswith("[")):
        value = [value]
    value = _list_of(value, name)
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} is {describe(value)}, not a list of images")
    return [_parse_image(item, name, image_root) for item in value if item is not None and item != ""]


def _parse_image(item: object, name: str, image_root: str | Path | None) -> StoredImage:
    content = (item.get("bytes") or item.get("path")) if isinstance(item, dict) else item
    if isinstance(content, bytes):
        return StoredImage(content, None)
    if not isinstance(content, str) or not content:
        raise ValueError(f"{name} holds {describe(item)}, not an image and not a path")
    if error := text_error(content):
        raise ValueError(f"{name} is {error}")
    return StoredImage(None, content if image_root is None else str(Path(image_root) / content))


def _list_of(value: Any, name: str) -> Any:
    """Return a value that may be written as the text of a list; nothing at all is an empty list."""
    if value is None or value == "":
        return []
    if isinstance(value, str):
        value = list_in_text(value)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except RecursionError as error:
        raise ValueError(f"{name} is JSON that is nested too deeply") from error
    except ValueError as error:  # not JSON, or an integer with too many digits
        raise ValueError(f"{name} is not a JSON list: {value[:60]!r}") from error
