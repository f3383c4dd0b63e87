"""Token ids of the texts of a batch, from a table of tokens or from the tokenizer.

Shapes: B samples, K negatives per sample, S slots of a further text, L tokens.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from degla.data.batch import Chunk
from degla.data.extra_texts import ExtraSlots
from degla.data.schema import Negative, Sample, SampleTokens, TokenizedText
from degla.data.select import Slots
from degla.data.tokenizer import Tokenizer


class SampleTexts(NamedTuple):
    """The texts of a sample that were chosen for a step."""

    sample: Sample  # with the caption of this step
    slots: Slots  # K negatives
    extra_texts: dict[str, ExtraSlots]


class BatchTexts:
    """Looks up or computes the token ids of all texts of a batch, padded to one length.

    Args:
        tokenizer: of the model.
        num_negatives: K.
        num_slots: key of ``Batch.extra_texts`` -> S, in the order of the batch.
    """

    def __init__(self, tokenizer: Tokenizer, num_negatives: int, num_slots: Mapping[str, int]):
        self.tokenizer = tokenizer
        self.num_slots = num_slots
        self.sizes = [1, num_negatives, *num_slots.values()]
        self._empty_ids = tokenizer.ids([""])[0] if tokenizer.causal else []

    def token_ids(self, rows: Sequence[SampleTexts]) -> list[Tensor]:
        """Return captions ``(B, 1, L)``, negatives ``(B, K, L)`` and each kind of further texts ``(B, S, L)``, int64.

        An empty slot has the tokens of an empty text.
        """
        tokens = tokens_of_all(rows)
        further = [text for name in self.num_slots for row in rows for text in row.extra_texts[name]]
        if tokens is None:
            texts = [row.sample.caption for row in rows]
            texts += [negative.text if negative else "" for row in rows for negative in row.slots]
            ids = self.tokenizer(texts + [text.text if text else "" for text in further])
        else:
            stored = [table.ids[caption_index(row.sample)] for row, table in zip(rows, tokens, strict=True)]
            for row, table in zip(rows, tokens, strict=True):
                stored += [table.ids[negative_index(row.sample, n)] if n else self._empty_ids for n in row.slots]
            ids = self.tokenizer.pad(stored + [self._stored_ids(text) for text in further])
        parts = torch.split(ids, [len(rows) * size for size in self.sizes])
        return [part.reshape(len(rows), size, ids.shape[1]) for part, size in zip(parts, self.sizes, strict=True)]

    def _stored_ids(self, text: TokenizedText | None) -> list[int]:
        return self._empty_ids if text is None or text.ids is None else text.ids

    def chunks(self, texts: Sequence[Tensor], size: int | None) -> list[Chunk]:
        """Pack the texts of each chunk: captions, then negatives, then the further texts, kind by kind.

        Args:
            texts: of ``token_ids``, each ``(B, S, L)``.
            size: samples of a chunk; None is the whole batch.
        """
        num_samples = len(texts[0])
        size = size or num_samples
        spans = [(start, min(start + size, num_samples)) for start in range(0, num_samples, size)]
        return [
            Chunk(start, stop, self.tokenizer.pack(torch.cat([part[start:stop].flatten(0, 1) for part in texts])))
            for start, stop in spans
        ]


def tokens_of_all(rows: Sequence[SampleTexts]) -> list[SampleTokens] | None:
    """Return the stored tokens of each sample; None if the texts still have to be tokenized."""
    tables = [row.sample.tokens for row in rows]
    return None if None in tables else cast(list[SampleTokens], tables)  # all of them come from one table


def text_numbers(rows: Sequence[SampleTexts]) -> np.ndarray | None:
    """Return ``(B, 1 + K)``: the numbers of captions and chosen negatives in the token table; None without a table."""
    tokens = tokens_of_all(rows)
    if tokens is None:
        return None
    return np.array(
        [
            [table.first_text + caption_index(row.sample)]
            + [table.first_text + negative_index(row.sample, n) if n else -1 for n in row.slots]
            for row, table in zip(rows, tokens, strict=True)
        ]
    )


def caption_index(sample: Sample) -> int:
    """Return the position of the caption among the sample's texts, as ``texts_of`` orders them."""
    return sample.captions.index(sample.caption) if sample.captions else 0


def negative_index(sample: Sample, negative: Negative) -> int:
    """Return the position of a negative among the sample's texts, as ``texts_of`` orders them.

    Args:
        sample: with its negatives.
        negative: one of them.
    """
    return max(1, len(sample.captions)) + sample.negatives.index(negative)
