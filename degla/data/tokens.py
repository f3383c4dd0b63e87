"""Token ids of all texts of a table, computed once and memory-mapped, so that training runs no tokenizer.

Shapes: R rows, M texts, T token ids of all texts together.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa

from degla.compat.datasets import fingerprint
from degla.data.cached_table import cached_batches
from degla.data.parallel import in_processes
from degla.data.schema import SampleTokens
from degla.data.sources.table import SampleTable
from degla.data.tokenizer import Tokenizer

_FEATURES = datasets.Features(
    {"first_text": datasets.Value("int64"), "ids": datasets.List(datasets.List(datasets.Value("int32")))}
)
_ROWS_AT_A_TIME = 4000  # rows that are tokenized in one call
_MIN_ROWS_OF_PROCESSES = 20_000  # a smaller table is tokenized before further processes have started


class TokenTable:
    """Random access to the tokens of a ``SampleTable``, one row per sample.

    Args:
        table: whose captions and negatives are tokenized.
        tokenizer: of a causal text tower.

    Attributes:
        num_texts: captions and negatives of the whole table.
        key: identity of the table and the tokenizer, for caches.
    """

    def __init__(self, table: SampleTable, tokenizer: Tokenizer):
        # The fingerprint covers the rows, but not which of their columns are read as texts.
        columns = f" {table.text_columns}" if table.text_columns else ""
        self.key = hashlib.sha256(f"{fingerprint(table.dataset)} {tokenizer.key()}{columns}".encode()).hexdigest()
        self.dataset = cached_batches(_batches(table, tokenizer), _FEATURES, table.cache_dir, self.key)
        last: dict[str, Any] = self.dataset[-1] if len(self.dataset) else {"first_text": 0, "ids": []}
        self.num_texts: int = last["first_text"] + len(last["ids"])

    def samples(self, indices: Sequence[int]) -> list[SampleTokens]:
        """Return the tokens of the samples at ``indices``."""
        columns = self.dataset[indices]
        return [SampleTokens(*row) for row in zip(columns["first_text"], columns["ids"], strict=True)]


class _Tokens(NamedTuple):
    """Token ids of some rows, flat."""

    texts_per_row: np.ndarray  # (R,) int32
    ids_per_text: np.ndarray  # (M,) int32
    ids: np.ndarray  # (T,) int32


def _batches(table: SampleTable, tokenizer: Tokenizer) -> Iterator[pa.Table]:
    spans = [(start, min(start + _ROWS_AT_A_TIME, len(table))) for start in range(0, len(table), _ROWS_AT_A_TIME)]
    # Reading memory-mapped rows needs no copy of the table, so a process is given row numbers.
    tokens = in_processes(_tokenize, spans, table, tokenizer, serial=len(table) < _MIN_ROWS_OF_PROCESSES)
    number = 0
    for part in tokens:
        first_texts = number + _offsets(part.texts_per_row)
        number = int(first_texts[-1])
        texts = pa.ListArray.from_arrays(pa.array(_offsets(part.ids_per_text), pa.int32()), pa.array(part.ids))
        rows = pa.ListArray.from_arrays(pa.array(_offsets(part.texts_per_row), pa.int32()), texts)
        yield pa.Table.from_arrays([pa.array(first_texts[:-1]), rows], schema=_FEATURES.arrow_schema)


def _tokenize(span: tuple[int, int], table: SampleTable, tokenizer: Tokenizer) -> _Tokens:
    texts = table.texts_of_rows(*span)
    ids = tokenizer.ids(list(chain.from_iterable(texts)))
    return _Tokens(
        np.fromiter(map(len, texts), np.int32, len(texts)),
        np.fromiter(map(len, ids), np.int32, len(ids)),
        np.fromiter(chain.from_iterable(ids), np.int32),
    )


def _offsets(lengths: np.ndarray) -> np.ndarray:
    """Return where each list starts in the flat array, and the end of the last one, as int64."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
