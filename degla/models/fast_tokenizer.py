"""Byte-pair encoding of open_clip's ``SimpleTokenizer`` with a cache of words; the token ids are the same.

``SimpleTokenizer`` cleans each text with ftfy and runs a regular expression over it, which takes most of its time. A
table of captions repeats a few thousand words, so a cached word is one look-up.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from open_clip import tokenizer as open_clip_tokenizer
from open_clip.tokenizer import SimpleTokenizer

_MAX_CACHED_WORDS = 2**18  # about 50 MB; a table of web captions has millions of distinct words
_MAX_CACHED_LENGTH = 64  # characters; a longer word hardly comes twice


def supports(tokenizer: Any) -> bool:
    """Return whether ``tokenizer`` is a plain ``SimpleTokenizer`` that truncates long texts at their end."""
    is_plain = type(tokenizer) is SimpleTokenizer and tokenizer.reduction_fn is None
    return is_plain and len(tokenizer.all_special_ids) == 2


class FastTokenizer:
    """Encodes texts as a ``SimpleTokenizer`` does.

    Args:
        tokenizer: gives vocabulary, merges, cleaning and context length.

    Attributes:
        words: word -> its token ids.
    """

    def __init__(self, tokenizer: SimpleTokenizer):
        self.tokenizer = tokenizer
        self.words = _Words(tokenizer)
        self._lowers = tokenizer.clean_fn is open_clip_tokenizer.get_clean_fn("lower")
        self._keeps_case = tokenizer.clean_fn is open_clip_tokenizer.get_clean_fn("whitespace")

    def encode(self, text: str) -> list[int]:
        """Return what ``SimpleTokenizer.encode`` returns: the token ids without start and end."""
        return list(chain.from_iterable(map(self.words.__getitem__, self._split(text))))

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text with start and end, truncated at the context length."""
        start, end, length = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id, self.tokenizer.context_length
        rows = []
        for text in texts:
            row = [start, *self.encode(text), end]
            if len(row) > length:
                row = [*row[: length - 1], end]
            rows.append(row)
        return rows

    def _split(self, text: str) -> list[str]:
        """Return the words of a text after open_clip's cleaning.

        In printable ASCII without ``&``, ftfy and HTML have nothing to repair. So cleaning means joining words with
        single spaces, and no token of the regular expression contains a space.
        """
        if text.isascii() and text.isprintable() and "&" not in text:
            if self._lowers:
                return text.lower().split()
            if self._keeps_case:
                return text.split()
        cleaned: str = self.tokenizer.clean_fn(text)
        return cleaned.split(" ") if cleaned else []

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"words": _Words(self.tokenizer)}  # a process that receives it fills its own cache


class _Words(dict[str, tuple[int, ...]]):
    """Token ids of words, encoded where they are missing."""

    def __init__(self, tokenizer: SimpleTokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    def __missing__(self, word: str) -> tuple[int, ...]:
        tokenizer = self.tokenizer
        ids: list[int] = []
        for match in tokenizer.pat.findall(word):
            token = "".join(tokenizer.byte_encoder[byte] for byte in match.encode("utf-8"))
            ids += [tokenizer.encoder[part] for part in tokenizer.bpe(token).split(" ")]
        if len(self) >= _MAX_CACHED_WORDS:
            self.clear()
            special = {tokenizer.decoder[number] for number in tokenizer.all_special_ids}
            for cached in tokenizer.cache.keys() - special:  # open_clip's own cache has no bound
                del tokenizer.cache[cached]
        if len(word) <= _MAX_CACHED_LENGTH:
            self[word] = tuple(ids)
        return tuple(ids)
