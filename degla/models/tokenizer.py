"""Captions to token ids, one batch at a time, without padding that the text tower does not need.

Shapes: M texts, L tokens of the longest text.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor

from degla.models.fast_tokenizer import FastTokenizer, supports
from degla.models.packing import PackedTexts, pack
from degla.models.text import end_positions


class CaptionTokenizer:
    """An open_clip tokenizer with the context length and the end-of-text token of its text tower.

    It is a ``degla.data.tokenizer.Tokenizer``.

    Args:
        tokenize: the open_clip tokenizer, texts -> ``(M, context_length)`` int64.
        context_length: positions of the text tower.
        causal: the tower needs no position after the end of a text, so batches are truncated to their longest caption.
        eos_id: id of the end-of-text token, None where it is the largest id.
        packs_tree: pack texts with the masks of their prefix tree, over which the text tower then attends.
    """

    def __init__(
        self,
        tokenize: SimpleTokenizer | HFTokenizer,
        context_length: int,
        causal: bool,
        eos_id: int | None = None,
        packs_tree: bool = False,
    ):
        self.tokenize = tokenize
        self.context_length = context_length
        self.causal = causal
        self.eos_id = eos_id
        self.packs_tree = packs_tree
        self._fast = FastTokenizer(tokenize) if supports(tokenize) else None

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return ``(M, L)`` int64 token ids; longer texts are truncated at the context length."""
        tokens = self._tokens(texts)
        if not self.causal or not len(tokens):
            return tokens
        return tokens[:, : int(self._lengths(tokens).max())].contiguous()

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text without padding, for a causal tower."""
        if self._fast is not None:
            return [row[: self._length(row)] for row in self._fast(texts)]
        tokens = self._tokens(texts)
        return [row[:length].tolist() for row, length in zip(tokens, self._lengths(tokens), strict=True)]

    def pad(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Pad lists of token ids with 0 to ``(M, L)`` int64, as open_clip's tokenizers do."""
        return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True)

    def pack(self, tokens: Tensor) -> PackedTexts | None:
        """Return ``(M, L)`` int64 tokens in the form that a causal tower computes, or None for other towers."""
        return pack(tokens, self._lengths(tokens), with_tree=self.packs_tree) if self.causal else None

    def is_truncated(self, text: str) -> bool:
        """Return whether ``text`` loses words at the context length."""
        if len(text) < self.context_length - 2:  # every token has at least one character
            return False
        encode = self._fast.encode if self._fast is not None else getattr(self.tokenize, "encode", None)
        if encode is None:  # Hugging Face tokenizers do not report it; no padding is taken to mean truncated
            padding = getattr(getattr(self.tokenize, "tokenizer", None), "pad_token_id", None) or 0
            return bool((self.tokenize([text])[0] != padding).all())
        return len(encode(text)) + 2 > self.context_length

    def key(self) -> str | None:
        """Return a hash of context length and vocabulary, for caches.

        Returns:
            None where the tokenizer does not show its vocabulary.
        """
        vocabulary = getattr(self.tokenize, "encoder", None)
        if vocabulary is None:
            return None
        return hashlib.sha256(f"{self.context_length} {list(vocabulary)}".encode()).hexdigest()

    def _tokens(self, texts: Sequence[str]) -> Tensor:
        if self._fast is not None:
            padded = np.zeros((len(texts), self.tokenize.context_length), dtype=np.int64)
            for number, row in enumerate(self._fast(texts)):
                padded[number, : len(row)] = row
            return torch.from_numpy(padded)
        tokens: Tensor = self.tokenize(list(texts)).long()
        return tokens

    def _length(self, row: list[int]) -> int:
        """Return what ``_lengths`` returns, for one text without padding."""
        end = max(row) if self.eos_id is None else self.eos_id
        return row.index(end) + 1 if end in row else 1

    def _lengths(self, tokens: Tensor) -> Tensor:
        return end_positions(tokens, self.eos_id) + 1
