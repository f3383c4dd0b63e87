"""The tokenizer interface that data loading needs."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Tokenizer(Protocol):
    """The interface of ``degla.models.CaptionTokenizer``, as far as sources and batches use it.

    M is a number of texts and L the number of tokens of the longest one.
    """

    context_length: int  # positions of the text tower
    causal: bool  # whether the tower ignores tokens after the end of a text

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return token ids ``(M, L)`` int64, padded with 0; longer texts are truncated at the context length."""
        ...

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return token ids without padding; for causal towers only."""
        ...

    def pad(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Pad the lists of ``ids`` with 0 to one ``(M, L)`` int64 tensor."""
        ...

    def pack(self, tokens: Tensor) -> object:
        """Return ``(M, L)`` int64 in the form in which a causal tower computes it; None for other towers."""
        ...

    def is_truncated(self, text: str) -> bool:
        """Return whether a text has more tokens than the context length."""
        ...

    def key(self) -> str | None:
        """Return an identity for caches; None if the vocabulary cannot be read."""
        ...
