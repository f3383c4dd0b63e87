"""Differences between two captions that do not change the meaning."""

import difflib
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from degla.hard_negatives.language.lexicon import lexicon
from degla.hard_negatives.language.phrases import Caption, is_symmetric
from degla.hard_negatives.language.words import singular

_ARTICLES = frozenset(["a", "the", "some", "one"])
_WORDS_FOR_TWO = (("a", "pair", "of"), ("a", "couple", "of"))


class Change(NamedTuple):
    """One position at which two normalized captions differ."""

    removed: list[str]
    added: list[str]


def normalize(words: Sequence[str], articles: frozenset[str] = _ARTICLES) -> list[str]:
    """Return the words of a caption in a form that is equal for many paraphrases.

    Articles are left out. Digits become words. A relation becomes one item, and relations of the same meaning become
    the same item: ``beside`` becomes ``next to``.

    Args:
        words: from ``lower_words``.
        articles: words that are left out.
    """
    numbers, plural_only = lexicon().numbers, lexicon().plural_only
    kept: list[str] = []
    i = 0
    while i < len(words):
        relation = _relation_at(words, i)
        if relation is not None:
            length, name = relation
            kept.append(name)
            i += length
            continue
        if tuple(words[i : i + 3]) in _WORDS_FOR_TWO:
            i += 2
            if words[i + 1 : i + 2] and words[i + 1] not in plural_only:  # "a pair of jeans" does not mean two jeans
                kept.append("two")
        elif words[i].isdecimal() and words[i].isascii() and 2 <= _small_number(words[i]) < 2 + len(numbers):
            kept.append(numbers[int(words[i]) - 2])
        elif words[i] not in articles:
            kept.append(words[i])
        i += 1
    return kept


def _small_number(digits: str) -> int:
    """Return the number, or 0 where it has too many digits to be a count of things."""
    return int(digits) if len(digits) < 6 else 0


def _relation_at(words: Sequence[str], i: int) -> tuple[int, str] | None:
    """Return the length and the name of the longest relation that begins at word ``i``."""
    for phrase, name in lexicon().same_relations.get(words[i], ()):
        if tuple(words[i : i + len(phrase)]) == phrase:
            return len(phrase), name
    return None


def meaning_changes(before: Sequence[str], after: Sequence[str]) -> list[Change]:
    """Return where two normalized captions differ in meaning.

    A synonym is not a change, and neither is "animal" for "dog".

    Args:
        before: the original caption, from ``normalize``.
        after: the other text, from ``normalize``.
    """
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    changes = [Change(list(before[a:b]), list(after[c:d])) for op, a, b, c, d in matcher.get_opcodes() if op != "equal"]
    return [
        change
        for change in changes
        if len(change.removed) != len(change.added) or not all(map(_is_same, change.removed, change.added))
    ]


def split_numbers(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the numbers of a caption, with ``a`` as ``one``, and the normalized rest."""
    numbers: list[str] = []
    rest: list[str] = []
    for word in normalize(words, articles=frozenset(["the", "some"])):
        if word in ("a", "one"):
            numbers.append("one")
        else:
            (numbers if word in lexicon().numbers or word.isdecimal() else rest).append(word)
    return numbers, rest


def nouns_with_adjectives(caption: Caption) -> Counter[tuple[str, frozenset[str]]]:
    """Count the nouns of a caption, each together with the set of its adjectives."""
    return Counter(
        (phrase.noun(caption.tokens), frozenset(caption.tokens[i].text.lower() for i in phrase.adjectives))
        for phrase in caption.phrases
    )


def is_symmetric_swap(caption: Caption, after: Sequence[str]) -> bool:
    """Return whether ``after`` is the caption with two phrases of a symmetric relation exchanged.

    Args:
        caption: the original caption.
        after: the words of the other text, from ``lower_words``.
    """
    tokens, wanted = caption.tokens, normalize(after)
    for first, second in combinations(caption.phrases, 2):
        if is_symmetric(caption, first, second):
            swapped = [
                *tokens[: first.start], *tokens[second.start : second.end], *tokens[first.end : second.start],
                *tokens[first.start : first.end], *tokens[second.end :],
            ]  # fmt: skip
            words = [token.text.lower() for token in swapped if token.is_word and token.text.lower() != "an"]
            if normalize(words) == wanted:
                return True
    return False


def _is_same(word: str, other: str) -> bool:
    word, other = singular(word), singular(other)
    return word == other or other in lexicon().synonyms.get(word, ()) or other in lexicon().also.get(word, ())
