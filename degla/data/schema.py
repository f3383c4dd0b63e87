"""One row, one batch: the shapes that every source and every consumer share."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import datasets
import numpy as np
from torch import Tensor

# The five kinds of the paper (section 3.1), in the order in which `negatives=one_per_type` lays them out.
NEGATIVE_TYPES = (
    "reshuffle_order",
    "swap_nouns",
    "swap_adjectives",
    "replace_adjectives",
    "replace_nouns",
)
UNKNOWN_TYPE = "unknown"

# How a row lies in the memory-mapped table. `problem` is set where a line of the file could not be read.
TABLE_FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
        "caption": datasets.Value("string"),
        "negatives": datasets.List({"text": datasets.Value("string"), "type": datasets.Value("string")}),
        "hard_image_rows": datasets.List(datasets.Value("int32")),
        "problem": datasets.Value("string"),
    }
)


class Negative(NamedTuple):
    """A caption that is false of the image."""

    text: str
    type: str = UNKNOWN_TYPE


class SampleTokens(NamedTuple):
    """Token ids of one row's texts, which are numbers ``first_text``, ``first_text + 1``, ... of their table."""

    first_text: int
    ids: list[list[int]]  # of the caption, then of each negative, without padding


class Sample(NamedTuple):
    """One image with one caption, the image still undecoded."""

    id: str  # file and line, or file and row, as a report names it
    image_bytes: bytes | None
    image_path: str | None  # absolute; tells images apart where several rows share one
    caption: str
    negatives: list[Negative]
    hard_image_rows: list[int] = []  # rows with a similar image (NegCLIP)
    problem: str = ""
    tokens: SampleTokens | None = None  # None: the tokenizer has to be asked


class Problem(NamedTuple):
    """Something wrong with a row; ``skipped`` tells whether the row was left out of its batch."""

    row: str
    reason: str
    skipped: bool


class Chunk(NamedTuple):
    """Rows of a batch that are encoded together; the loss sees the whole batch."""

    start: int
    stop: int
    packed: Any  # degla.models.PackedTexts of the rows' captions, then of their negatives; None: take the tokens


class Batch(NamedTuple):
    """What a DataLoader yields.

    L is the longest text, or the context length where the tower needs it; K is the same in every batch of a run.
    """

    images: Tensor  # (B, 3, H, W) uint8
    captions: Tensor  # (B, L) int64
    negatives: Tensor  # (B, K, L) int64
    negative_mask: Tensor  # (B, K) bool, True where a negative exists
    samples: list[Sample]  # B; image bytes and tokens dropped, `image_path` is its `image_key`
    slots: list[list[Negative | None]]  # B x K, the negatives as texts; None where the mask is False
    problems: list[Problem]
    chunks: Sequence[Chunk] = ()  # in order; none: the whole batch at once
    text_numbers: np.ndarray | None = None  # (B, 1 + K) int64 in the token table, -1 where there is no negative
    teacher_texts: Tensor | None = None  # (B, 1 + K, D) float32 if the teacher's features of all texts are known


def image_key(row: Sample) -> str:
    """What tells one image from another: its path, or a hash of its bytes."""
    if row.image_bytes is None:
        return row.image_path or row.id
    return hashlib.sha1(row.image_bytes, usedforsecurity=False).hexdigest()


def parse_negatives(value: object) -> list[Negative]:
    """Read the ``negatives`` of a row: a list of strings or of ``{text, type}``, or such a list as JSON.

    Raises:
        ValueError: anything else.
    """
    if value is None or value == "":
        return []
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"negatives are no JSON list: {value[:60]!r}") from error
    if not isinstance(value, list | tuple):
        raise ValueError(f"negatives are a {type(value).__name__}, not a list")
    return [_parse_negative(item) for item in value if item is not None]


def _parse_negative(item: object) -> Negative:
    if isinstance(item, str):
        return Negative(item)
    if isinstance(item, dict) and isinstance(item.get("text"), str):
        return Negative(item["text"], item.get("type") or UNKNOWN_TYPE)
    raise ValueError(f"a negative is neither a string nor {{text, type}}: {str(item)[:60]!r}")
