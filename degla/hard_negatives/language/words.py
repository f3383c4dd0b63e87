"""Captions as tokens, and the small repairs that keep a changed caption fluent."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from degla.errors import ConfigError
from degla.hard_negatives.language.lexicon import lexicon

try:
    import inflect
except ImportError as error:
    raise ConfigError("hard negatives need pip install 'degla[negatives]'") from error

_TOKEN = re.compile(r"\s*(\w+(?:['’-]\w+)*|[^\w\s])")
_INFLECT = inflect.engine()
# What inflect gets wrong.
_SINGULAR = {"people": "person", "buses": "bus", "skis": "ski", "taxis": "taxi", "frisbees": "frisbee"}
_PLURAL = {"person": "people", "bus": "buses"}


class Token(NamedTuple):
    """A word or a mark, with the white space before it."""

    text: str
    space: str = " "

    @property
    def is_word(self) -> bool:
        """Whether it is no mark."""
        return self.text[0].isalnum()


def split(caption: str) -> list[Token]:
    """``join(split(caption)) == caption`` but for white space at the ends."""
    return [Token(m.group(1), m.group(0)[: -len(m.group(1))]) for m in _TOKEN.finditer(caption.strip())]


def join(tokens: Sequence[Token]) -> str:
    """The caption again."""
    return "".join(token.space + token.text for token in tokens).strip()


def finished(before: str, tokens: Sequence[Token], proper: frozenset[str] = frozenset()) -> str:
    """The changed caption with its articles (a, an) and its capital put right.

    Args:
        before: the caption as it was.
        tokens: of the changed one.
        proper: words that keep their capital wherever they stand.
    """
    tokens = list(tokens)
    capital = before.lstrip()[:1].isupper()
    first = next((i for i, token in enumerate(tokens) if token.is_word), 0)
    for i, token in enumerate(tokens):
        text = token.text
        if i != first and capital and text[:1].isupper() and text[1:].islower() | (len(text) == 1):
            if text not in proper and text != "I" and text == next(t.text for t in split(before) if t.is_word):
                text = text.lower()
        elif i == first and capital:
            text = text[:1].upper() + text[1:]
        tokens[i] = token._replace(text=text)
    for i, token in enumerate(tokens[:-1]):
        if token.text.lower() in ("a", "an") and tokens[i + 1].is_word:
            article = indefinite(tokens[i + 1].text)
            tokens[i] = token._replace(text=article.capitalize() if token.text[0].isupper() else article)
    return join(tokens)


@lru_cache(65536)
def indefinite(word: str) -> str:
    """``a`` or ``an``, whichever stands before the word."""
    return _INFLECT.a(word.lower()).split(" ")[0]


@lru_cache(65536)
def plural(noun: str) -> str:
    """Of a singular noun in lower case."""
    return _PLURAL.get(noun) or _INFLECT.plural_noun(noun)


@lru_cache(65536)
def singular(noun: str) -> str:
    """Of a plural noun in lower case; a singular one comes back as it is."""
    if noun in _SINGULAR:
        return _SINGULAR[noun]
    if noun in lexicon().nouns or noun.endswith(("ss", "us", "is")):  # bus, tennis, which inflect takes for plurals
        return noun
    return _INFLECT.singular_noun(noun) or noun


def words(caption: str) -> list[str]:
    """Lower-case words, ``an`` as ``a``: what two captions are compared by."""
    return ["a" if word == "an" else word for word in (t.text.lower() for t in split(caption) if t.is_word)]
