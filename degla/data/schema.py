"""Types that every source and every consumer of samples share.

This module imports neither torch nor ``datasets``, because ``degla-negatives`` uses it and must start without torch.
The batch is in ``degla.data.batch``.
"""

import ast
import contextlib
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

# The five types of the paper (section 3.1), in the order in which `negatives=one_per_type` fills the slots.
NEGATIVE_TYPES = (
    "reshuffle_order",
    "swap_nouns",
    "swap_adjectives",
    "replace_adjectives",
    "replace_nouns",
)

UNKNOWN_TYPE = "unknown"  # type of a negative for which the data give none


class Negative(NamedTuple):
    """A hard negative: a caption that is false of the image."""

    text: str
    type: str = UNKNOWN_TYPE


class Unit(NamedTuple):
    """A part of a caption, such as ``a black dog``, and its foil: the same part, minimally changed to be false."""

    text: str
    foil: str


class StoredImage(NamedTuple):
    """An image that is not decoded yet: its encoded bytes, or its absolute path."""

    image_bytes: bytes | None
    image_path: str | None


class SampleTokens(NamedTuple):
    """Token ids of a sample's texts, which have the numbers ``first_text``, ``first_text + 1``, ... in their table."""

    first_text: int
    ids: list[list[int]]  # of the texts in the order of ``texts_of``, without padding


class TokenizedText(NamedTuple):
    """A text, with its token ids where a table of tokens holds them."""

    text: str
    ids: list[int] | None


class Sample(NamedTuple):
    """One image with one caption; the image is not decoded yet."""

    id: str  # file and line, or data set and row, for messages
    image_bytes: bytes | None
    image_path: str | None  # absolute path; samples of one image share it
    caption: str
    negatives: list[Negative]
    hard_image_rows: list[int] = []  # rows of the table with a similar image (NegCLIP)
    problem: str = ""  # why the sample cannot be used; "" if it can
    tokens: SampleTokens | None = None  # None: the texts still have to be tokenized
    captions: tuple[str, ...] = ()  # all captions of the image, `caption` among them; empty if it is the only one
    units: list[Unit] = []
    paraphrases: list[str] = []  # other wordings of the caption
    negative_images: list[StoredImage] = []  # images of which the caption is false
    other_caption: TokenizedText | None = None  # caption of another row of the same image, drawn for this step


class Problem(NamedTuple):
    """A defect of a sample; ``skipped`` says whether the sample was left out of its batch."""

    row: str
    reason: str
    skipped: bool


def texts_of(sample: Sample) -> list[str]:
    """Return captions, negatives, units with their foils, and paraphrases of a sample, as its ``SampleTokens`` do."""
    units = [text for unit in sample.units for text in unit]
    negatives = [negative.text for negative in sample.negatives]
    return [*(sample.captions or (sample.caption,)), *negatives, *units, *sample.paraphrases]


def image_key(sample: Sample) -> str:
    """Return the identity of a sample's image: its path, or a hash of its bytes."""
    if sample.image_bytes is None:
        return sample.image_path or sample.id
    return hashlib.sha1(sample.image_bytes, usedforsecurity=False).hexdigest()


def describe(value: object) -> str:
    """Return a short description of a value for messages, such as ``a list of 5``."""
    match value:
        case None:
            return "missing"
        case str():
            return f"the text {value[:40]!r}"
        case bytes():
            return "bytes"
        case bool() | int() | float():
            return f"the value {str(value)[:40]}"
        case list() | tuple():
            return f"a list of {len(value)}"
        case dict():
            return f"an object with the keys {', '.join(map(str, value))[:60]}"
    return f"of type {type(value).__name__}"


def text_error(value: object) -> str:
    """Say why a value is not a text that can be stored; "" if it is one.

    A lone surrogate, such as ``"\\ud800"`` in JSON, cannot be written as UTF-8.
    """
    if not isinstance(value, str):
        return f"{describe(value)}, not a text"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "not valid Unicode (it holds a lone surrogate)"
    return ""


def list_in_text(text: str) -> Any:
    """Return the list of texts or objects that a text holds, as JSON or in Python's notation; else the text itself.

    CSV has no lists, so many files hold the text of one.
    """
    if not (text.startswith("[") and text.rstrip().endswith("]")):
        return text
    for parse in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = parse(text)
            if isinstance(value, list) and all(isinstance(item, str | dict | None) for item in value):
                return value
    return text


def parse_negatives(value: Any) -> list[Negative]:
    """Parse the negatives of a record.

    Args:
        value: a list of texts or of ``{text, type}``, an object of two such lists (``{text: [...], type: [...]}``),
            any of these as JSON, or None. A list may also be written in Python's notation.

    Raises:
        ValueError: the value is anything else. Sources report it as a problem of the sample.
    """
    if value is None or value == "":
        return []
    if isinstance(value, str):
        value = list_in_text(value)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except RecursionError as error:
            raise ValueError("negatives are JSON that is nested too deeply") from error
        except ValueError as error:  # not JSON, or an integer with too many digits
            raise ValueError(f"negatives are not a JSON list: {value[:60]!r}") from error
    if isinstance(value, dict):
        value = _list_of_objects(value)
    if not isinstance(value, list | tuple):
        raise ValueError(f"negatives are {describe(value)}, not a list")
    return [_parse_negative(item) for item in value if item is not None]


def negatives_of_record(record: Mapping[str, object]) -> list[Negative]:
    """Collect the negatives of a record from all of its columns that hold some.

    These are ``negatives`` or ``negative_captions`` (see ``parse_negatives``), else ``negative``,
    ``negative_caption`` or ``negative_text``, with or without a number (``negative_2``), in the order of the numbers.
    ``negative_type`` and ``negative_type_2`` give their types.

    Args:
        record: column -> value.

    Raises:
        ValueError: a value cannot be read.
    """
    columns = _negative_columns(tuple(map(str, record)))
    for name in columns.lists:
        if record[name] is not None:
            return parse_negatives(record[name])
    negatives: list[Negative] = []
    for name, type_column in columns.single:
        value = record[name]
        if value is None or value == "":
            continue
        if isinstance(value, list | tuple):
            negatives += parse_negatives(value)
            continue
        type_name = record[type_column] if type_column else None
        try:
            negatives.append(_parse_negative({"text": value, "type": type_name}))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return negatives


class _NegativeColumns(NamedTuple):
    lists: tuple[str, ...]
    single: tuple[tuple[str, str | None], ...]  # columns of texts, each with its column of types


@functools.cache
def _negative_columns(columns: tuple[str, ...]) -> _NegativeColumns:
    single = {
        name: match[1] for name in columns if (match := re.fullmatch(r"negative(?:_caption|_text)?_?(\d*)", name))
    }
    types = {match[1]: name for name in columns if (match := re.fullmatch(r"negative_type_?(\d*)", name))}
    in_order = sorted(single, key=lambda name: (int(single[name] or 0), columns.index(name)))
    return _NegativeColumns(
        tuple(name for name in ("negatives", "negative_captions") if name in columns),
        tuple((name, types.get(single[name])) for name in in_order),
    )


def _list_of_objects(value: dict[Any, Any]) -> object:
    """Turn an object of lists into a list of objects, as ``datasets`` stores a sequence of structs."""
    texts = value.get("text")
    if not isinstance(texts, list | tuple):
        return value
    if any(not isinstance(part, list | tuple) or len(part) != len(texts) for part in value.values()):
        raise ValueError("negatives are an object of lists of different lengths")
    return [dict(zip(value, parts, strict=True)) for parts in zip(*value.values(), strict=True)]


def _parse_negative(item: object) -> Negative:
    text = item.get("text") if isinstance(item, dict) else item
    if not isinstance(text, str):
        raise ValueError(f"a negative is {describe(item)}, not a text and not {{text, type}}")
    type_name: object = (item.get("type") if isinstance(item, dict) else None) or UNKNOWN_TYPE
    if error := text_error(text):
        raise ValueError(f"a negative is {error}")
    if not isinstance(type_name, str) or text_error(type_name):
        raise ValueError(f"the type of a negative is {text_error(type_name)}")
    return Negative(text, type_name)
