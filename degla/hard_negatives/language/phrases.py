"""The noun phrases of a caption."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from degla.hard_negatives.language.lexicon import lexicon
from degla.hard_negatives.language.tagger import Tagger
from degla.hard_negatives.language.words import Token, singular, tokenize

_MAX_RELATION_WORDS = 8  # longer than every relation of the lexicon, with a comma before it


class Phrase(NamedTuple):
    """The noun phrase ``tokens[start:end]``: determiner, adjectives, and a head of one or more nouns."""

    start: int
    head: int  # offset of the first noun
    end: int
    adjectives: tuple[int, ...]  # offsets
    is_plural: bool
    is_bare: bool  # has no determiner and no number

    def noun(self, tokens: Sequence[Token]) -> str:
        """Return the last word of the head, singular, in lower case."""
        word = tokens[self.end - 1].text.lower()
        return singular(word) if self.is_plural else word


class Caption(NamedTuple):
    """A caption with its tokens, their word classes, and its noun phrases."""

    text: str
    tokens: list[Token]
    classes: list[str]
    phrases: list[Phrase]

    @property
    def proper(self) -> frozenset[str]:
        """The names in the caption."""
        pairs = zip(self.tokens, self.classes, strict=True)
        return frozenset(token.text for token, word_class in pairs if word_class == "proper")


# The rules and checks of all kinds of a caption follow one another, so a small cache saves most of the tagging.
@lru_cache(256)
def parse(text: str, tagger: Tagger) -> Caption:
    """Split a caption into tokens, tag them, and find the noun phrases.

    Args:
        text: the caption.
        tagger: gives the word classes.
    """
    tokens = tokenize(text)
    classes = tagger([token.text for token in tokens]) if tokens else []
    return Caption(text, tokens, classes, _phrases(tokens, classes))


def is_symmetric(caption: Caption, first: Phrase, second: Phrase) -> bool:
    """Return whether exchanging two phrases leaves the meaning unchanged, as in "a dog next to a cat".

    Args:
        caption: the caption.
        first: the phrase that comes first.
        second: a later phrase.
    """
    start, end = first.end, second.start
    while start < end and caption.tokens[start].text.lower() in lexicon().postures:
        start += 1
    # The words of a long distance form no relation. Only the last one matters then.
    start = max(start, end - _MAX_RELATION_WORDS)
    between = tuple(token.text.lower() for token in caption.tokens[start:end])
    symmetric = lexicon().symmetric
    if between in symmetric or (between and between[0] == "," and between[1:] in symmetric):
        return True
    if {first.noun(caption.tokens), second.noun(caption.tokens)} <= lexicon().living:
        return between in lexicon().symmetric_between_the_living or between[-1:] == ("with",)
    return False


def _phrases(tokens: list[Token], classes: list[str]) -> list[Phrase]:
    phrases = []
    end = 0
    while end < len(tokens):
        if classes[end] not in ("noun", "nouns"):
            end += 1
            continue
        head = end
        while end < len(tokens) and classes[end] in ("noun", "nouns"):
            end += 1
        start, adjectives = _adjectives_before(head, tokens, classes)
        is_bare = True
        while start and classes[start - 1] in ("determiner", "number"):
            start, is_bare = start - 1, False
        is_plural = classes[end - 1] == "nouns" or tokens[end - 1].text.lower() == "people"
        phrases.append(Phrase(start, head, end, adjectives, is_plural, is_bare))
    return phrases


def _adjectives_before(head: int, tokens: list[Token], classes: list[str]) -> tuple[int, tuple[int, ...]]:
    """Return where the adjectives before ``head`` begin, and their offsets. "," and "and" may join them."""
    start = head
    adjectives: list[int] = []
    while start:
        if classes[start - 1] == "adjective":
            start -= 1
            adjectives.append(start)
            continue
        is_joint = tokens[start - 1].text in (",", "and")
        if not (is_joint and adjectives and start > 1 and classes[start - 2] == "adjective"):
            break
        start -= 1
    return start, tuple(reversed(adjectives))
