"""Token ids of all texts of a table, computed once and memory-mapped, so that training runs no tokenizer."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import datasets

from degla.compat.datasets import fingerprint
from degla.data.cached_table import cached_table
from degla.data.schema import SampleTokens, texts_of
from degla.data.sources.table import SampleTable
from degla.data.tokenizer import Tokenizer

_FEATURES = datasets.Features(
    {"first_text": datasets.Value("int64"), "ids": datasets.List(datasets.List(datasets.Value("int32")))}
)


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
        self.dataset = cached_table(_generate(table, tokenizer), _FEATURES, table.cache_dir, self.key)
        last: dict[str, Any] = self.dataset[-1] if len(self.dataset) else {"first_text": 0, "ids": []}
        self.num_texts: int = last["first_text"] + len(last["ids"])

    def samples(self, indices: Sequence[int]) -> list[SampleTokens]:
        """Return the tokens of the samples at ``indices``."""
        columns = self.dataset[indices]
        return [SampleTokens(*row) for row in zip(columns["first_text"], columns["ids"], strict=True)]


def _generate(table: SampleTable, tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    number = 0
    for start in range(0, len(table), 1000):
        for sample in table.texts(range(start, min(start + 1000, len(table)))):
            ids = tokenizer.ids(texts_of(sample))
            yield {"first_text": number, "ids": ids}
            number += len(ids)
