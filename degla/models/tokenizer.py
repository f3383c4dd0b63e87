"""Captions to token ids, a batch at a time, no longer than they need to be."""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from degla.models.packing import PackedTexts, pack
from degla.models.text import end_positions


class CaptionTokenizer:
    """Wraps an open_clip tokenizer.

    Args:
        tokenize: the open_clip tokenizer, texts -> ``(M, context_length)`` int64.
        context_length: positions of the text tower.
        causal: the tower needs nothing behind the end of a text: cut batches behind their longest caption.
        eos_id: id of the end-of-text token, None where it is the largest id.
    """

    def __init__(
        self,
        tokenize: Callable[[Sequence[str]], Tensor],
        context_length: int,
        causal: bool,
        eos_id: int | None = None,
    ):
        self.tokenize = tokenize
        self.context_length = context_length
        self.causal = causal
        self.eos_id = eos_id

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """``(M, L)`` int64; longer texts are cut at the context length."""
        tokens = self.tokenize(list(texts)).long()
        if not self.causal or not len(tokens):
            return tokens
        return tokens[:, : int(self._lengths(tokens).max())].contiguous()

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The same without padding, for a causal tower."""
        tokens = self.tokenize(list(texts)).long()
        return [row[:length].tolist() for row, length in zip(tokens, self._lengths(tokens), strict=True)]

    def pad(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """``(M, L)`` int64 of what ``ids`` gave, filled up with 0 as open_clip's tokenizers do."""
        return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True)

    def pack(self, tokens: Tensor) -> PackedTexts | None:
        """``(M, L)`` int64 as a causal tower computes them; None for other towers."""
        return pack(tokens, self._lengths(tokens)) if self.causal else None

    def is_cut(self, text: str) -> bool:
        """Whether ``text`` loses words at the context length."""
        if len(text) < self.context_length - 2:  # every token has at least one character
            return False
        encode = getattr(self.tokenize, "encode", None)
        if encode is None:  # Hugging Face tokenizers: a full row is the best that can be known
            padding = getattr(getattr(self.tokenize, "tokenizer", None), "pad_token_id", None) or 0
            return bool((self.tokenize([text])[0] != padding).all())
        return len(encode(text)) + 2 > self.context_length

    def key(self) -> str | None:
        """What tells this tokenizer from others, for caches; None where its vocabulary cannot be seen."""
        vocabulary = getattr(self.tokenize, "encoder", None)
        if vocabulary is None:
            return None
        return hashlib.sha256(f"{self.context_length} {list(vocabulary)}".encode()).hexdigest()

    def _lengths(self, tokens: Tensor) -> Tensor:
        return end_positions(tokens, self.eos_id) + 1
