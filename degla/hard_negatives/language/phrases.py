"""The noun phrases of a caption."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from degla.hard_negatives.language.lexicon import lexicon
from degla.hard_negatives.language.tagger import Tag
from degla.hard_negatives.language.words import Token, singular, split


class Phrase(NamedTuple):
    """``tokens[start:end]``: determiner, adjectives, and a head of one noun or several."""

    start: int
    head: int  # where the head begins
    end: int
    adjectives: tuple[int, ...]
    is_plural: bool
    is_bare: bool  # without determiner and number

    def noun(self, tokens: Sequence[Token]) -> str:
        """The last word of the head, singular, in lower case."""
        word = tokens[self.end - 1].text.lower()
        return singular(word) if self.is_plural else word


class Caption(NamedTuple):
    """A caption as rules and checks see it."""

    text: str
    tokens: list[Token]
    classes: list[str]
    phrases: list[Phrase]

    @property
    def proper(self) -> frozenset[str]:
        """Names, which keep their capitals."""
        return frozenset(t.text for t, kind in zip(self.tokens, self.classes, strict=True) if kind == "proper")


@lru_cache(256)  # all kinds of a caption come together, rules and checks alike
def parsed(text: str, tag: Tag) -> Caption:
    """Split, tag and find the phrases."""
    tokens = split(text)
    classes = tag([token.text for token in tokens]) if tokens else []
    return Caption(text, tokens, classes, _phrases(tokens, classes))


def is_symmetric(caption: Caption, first: Phrase, second: Phrase) -> bool:
    """Whether the two phrases may change places without changing what is said: "a dog next to a cat"."""
    known = lexicon()
    between = tuple(token.text.lower() for token in caption.tokens[first.end : second.start])
    while between and between[0] in known.postures:
        between = between[1:]
    if between in known.symmetric or (between and between[0] == "," and between[1:] in known.symmetric):
        return True
    if {first.noun(caption.tokens), second.noun(caption.tokens)} <= known.living:
        return between in known.symmetric_between_the_living or between[-1:] == ("with",)
    return False


def _phrases(tokens: list[Token], classes: list[str]) -> list[Phrase]:
    found = []
    end = 0
    while end < len(tokens):
        if classes[end] not in ("noun", "nouns"):
            end += 1
            continue
        head = end
        while end < len(tokens) and classes[end] in ("noun", "nouns"):
            end += 1
        start, adjectives = head, []
        while start:
            if classes[start - 1] == "adjective":
                adjectives.append(start - 1)
                start -= 1
            elif (
                start > 1
                and adjectives
                and classes[start - 2] == "adjective"
                and tokens[start - 1].text in (",", "and")
            ):
                start -= 1
            else:
                break
        bare = True
        while start and classes[start - 1] in ("determiner", "number"):
            start, bare = start - 1, False
        plural = classes[end - 1] == "nouns" or tokens[end - 1].text.lower() == "people"
        found.append(Phrase(start, head, end, tuple(reversed(adjectives)), plural, bare))
    return found
