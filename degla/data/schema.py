"""Types that every source and every consumer of samples share.

This module imports neither torch nor ``datasets``: ``degla-negatives`` uses it and must start without torch. The batch is in ``degla.data.batch``.
"""

import hashlib
import json
from typing import NamedTuple

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


class SampleTokens(NamedTuple):
    """Token ids of a sample's texts, which have the numbers ``first_text``, ``first_text + 1``, ... in their table."""

    first_text: int
    ids: list[list[int]]  # of the caption, then of each negative, without padding


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


class Problem(NamedTuple):
    """A defect of a sample; ``skipped`` says whether the sample was left out of its batch."""

    row: str
    reason: str
    skipped: bool


def image_key(sample: Sample) -> str:
    """Return the identity of a sample's image: its path, or a hash of its bytes."""
    if sample.image_bytes is None:
        return sample.image_path or sample.id
    return hashlib.sha1(sample.image_bytes, usedforsecurity=False).hexdigest()


def parse_negatives(value: object) -> list[Negative]:
    """Parse the ``negatives`` of a record: a list of strings or of ``{text, type}``, or such a list as JSON.

    Raises:
        ValueError: the value is anything else. Sources make a problem of the sample from it.
    """
    if value is None or value == "":
        return []
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"negatives are not a JSON list: {value[:60]!r}") from error
    if not isinstance(value, list | tuple):
        raise ValueError(f"negatives are of type {type(value).__name__}, not a list")
    return [_parse_negative(item) for item in value if item is not None]


def _parse_negative(item: object) -> Negative:
    if isinstance(item, str):
        return Negative(item)
    if isinstance(item, dict):
        text = item.get("text")
        if isinstance(text, str):
            return Negative(text, item.get("type") or UNKNOWN_TYPE)
    raise ValueError(f"a negative is neither a string nor {{text, type}}: {str(item)[:60]!r}")
