"""Captions as tokens, and the small repairs that keep a changed caption grammatical."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from degla.errors import MissingDependencyError
from degla.hard_negatives.language.lexicon import lexicon

try:
    import inflect
except ImportError as error:
    raise MissingDependencyError.for_extra("hard negatives need inflect", "negatives") from error

_TOKEN = re.compile(r"\s*(\w+(?:['’-]\w+)*|[^\w\s])")
_INFLECT = inflect.engine()
# Nouns that inflect gets wrong.
_SINGULAR = {"people": "person", "buses": "bus", "skis": "ski", "taxis": "taxi", "frisbees": "frisbee"}
_PLURAL = {"person": "people", "bus": "buses"}


class Token(NamedTuple):
    """A word or a punctuation mark, with the white space before it."""

    text: str
    space: str = " "

    @property
    def is_word(self) -> bool:
        """Return whether the token is a word and not a punctuation mark."""
        return self.text[0].isalnum()


def tokenize(caption: str) -> list[Token]:
    """Split a caption into tokens.

    ``detokenize`` restores it, except for white space at the ends.
    """
    return [Token(m.group(1), m.group(0)[: -len(m.group(1))]) for m in _TOKEN.finditer(caption.strip())]


def detokenize(tokens: Sequence[Token]) -> str:
    """Return the text of the tokens."""
    return "".join(token.space + token.text for token in tokens).strip()


def lower_words(caption: str) -> list[str]:
    """Return the words of a caption for comparison: lower case, without punctuation, ``an`` as ``a``."""
    words = (token.text.lower() for token in tokenize(caption) if token.is_word)
    return ["a" if word == "an" else word for word in words]


def finish_caption(before: str, tokens: Sequence[Token], proper: frozenset[str] = frozenset()) -> str:
    """Return a changed caption as text, with its articles (a, an) and its first capital corrected.

    Args:
        before: the original caption. It decides whether the result begins with a capital.
        tokens: the changed caption.
        proper: names, which keep their capital at every position.
    """
    tokens = _with_capitals(before, list(tokens), proper)
    for i, token in enumerate(tokens[:-1]):
        if token.text.lower() in ("a", "an") and tokens[i + 1].is_word:
            article = indefinite_article(tokens[i + 1].text)
            tokens[i] = token._replace(text=article.capitalize() if token.text[0].isupper() else article)
    return detokenize(tokens)


def _with_capitals(before: str, tokens: list[Token], proper: frozenset[str]) -> list[Token]:
    """Move the capital of a caption to its new first word. The old first word loses it."""
    if not before.lstrip()[:1].isupper():
        return tokens
    old_first = next((token.text for token in tokenize(before) if token.is_word), "")
    new_first = next((i for i, token in enumerate(tokens) if token.is_word), 0)
    for i, token in enumerate(tokens):
        text = token.text
        is_capitalized = text[:1].isupper() and (text[1:].islower() or len(text) == 1)
        if i == new_first:
            text = text[:1].upper() + text[1:]
        elif is_capitalized and text not in proper and text != "I" and text == old_first:
            text = text.lower()
        tokens[i] = token._replace(text=text)
    return tokens


@lru_cache(65536)
def indefinite_article(word: str) -> str:
    """Return the article that goes before the word: ``a`` or ``an``."""
    return _INFLECT.a(word.lower()).split(" ")[0]


@lru_cache(65536)
def plural(noun: str) -> str:
    """Return the plural of a lower-case singular noun."""
    return _PLURAL.get(noun) or _INFLECT.plural_noun(noun)


@lru_cache(65536)
def singular(noun: str) -> str:
    """Return the singular of a lower-case noun.

    A noun that is singular already is returned unchanged.
    """
    if noun in _SINGULAR:
        return _SINGULAR[noun]
    if noun in lexicon().nouns or noun.endswith(("ss", "us", "is")):  # inflect takes "bus" and "tennis" for plurals
        return noun
    return _INFLECT.singular_noun(noun) or noun
