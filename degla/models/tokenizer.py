"""Captions to token ids, a batch at a time, no longer than they need to be."""

from collections.abc import Callable, Sequence

from torch import Tensor

from degla.models.text import end_positions


class CaptionTokenizer:
    """Wraps an open_clip tokenizer.

    Args:
        tokenize: the open_clip tokenizer, texts -> ``(M, context_length)`` int64.
        context_length: positions of the text tower.
        trim: cut batches behind their longest caption; only for towers where that is exact.
        eos_id: id of the end-of-text token, None where it is the largest id.
        multiple_of: trimmed lengths are rounded up to this, so that few shapes occur.
    """

    def __init__(
        self,
        tokenize: Callable[[Sequence[str]], Tensor],
        context_length: int,
        trim: bool,
        eos_id: int | None = None,
        multiple_of: int = 8,
    ):
        self.tokenize = tokenize
        self.context_length = context_length
        self.trim = trim
        self.eos_id = eos_id
        self.multiple_of = multiple_of

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """``(M, L)`` int64; longer texts are cut at the context length."""
        tokens = self.tokenize(list(texts)).long()
        if not self.trim or not len(tokens):
            return tokens
        longest = int(end_positions(tokens, self.eos_id).max()) + 1
        rounded = -(-longest // self.multiple_of) * self.multiple_of
        return tokens[:, : min(rounded, self.context_length)].contiguous()

    def is_cut(self, text: str) -> bool:
        """Whether ``text`` loses words at the context length."""
        if len(text) < self.context_length - 2:  # every token has at least one character
            return False
        encode = getattr(self.tokenize, "encode", None)
        if encode is None:  # Hugging Face tokenizers: a full row is the best that can be known
            return bool((self.tokenize([text])[0] != 0).all())
        return len(encode(text)) + 2 > self.context_length
