"""Token ids of all texts of a table, made once and mapped into memory: no tokenizer runs while training."""

import hashlib
from collections.abc import Iterator

import datasets

from degla.data.schema import SampleTokens
from degla.data.sources.table import SampleTable

_FEATURES = datasets.Features(
    {"first_text": datasets.Value("int64"), "ids": datasets.List(datasets.List(datasets.Value("int32")))}
)


class TokenTable:
    """Random access to the tokens of a ``SampleTable``, in its order.

    Args:
        table: whose captions and negatives.
        tokenizer: a ``degla.models.CaptionTokenizer`` of a causal tower.

    Attributes:
        num_texts: captions and negatives of the whole table.
        key: what tells this table from others, for caches.
    """

    def __init__(self, table: SampleTable, tokenizer):
        self.key = hashlib.sha256(f"{table.dataset._fingerprint} {tokenizer.key()}".encode()).hexdigest()
        self.dataset = datasets.Dataset.from_generator(
            _generate,
            features=_FEATURES,
            cache_dir=table.cache_dir,
            gen_kwargs={"table": table, "tokenizer": tokenizer},
            fingerprint=self.key[:32],  # not of the arguments: hashing them would read the whole table
        )
        last = self.dataset[-1] if len(self.dataset) else {"first_text": 0, "ids": []}
        self.num_texts = last["first_text"] + len(last["ids"])

    def samples(self, indices: list[int]) -> list[SampleTokens]:
        """The rows at ``indices``."""
        columns = self.dataset[indices]
        return [SampleTokens(*row) for row in zip(columns["first_text"], columns["ids"], strict=True)]


def _generate(table: SampleTable, tokenizer) -> Iterator[dict]:
    number = 0
    for start in range(0, len(table), 1000):
        for row in table.texts(range(start, min(start + 1000, len(table)))):
            ids = tokenizer.ids([row.caption, *(negative.text for negative in row.negatives)])
            yield {"first_text": number, "ids": ids}
            number += len(ids)
