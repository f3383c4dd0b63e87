"""What two captions say in different words: the paraphrases that are no negatives."""

import difflib
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from degla.hard_negatives.language.lexicon import lexicon
from degla.hard_negatives.language.phrases import Caption, is_symmetric
from degla.hard_negatives.language.words import singular

_ARTICLES = frozenset(["a", "the", "some", "one"])
_TWO = (("a", "pair", "of"), ("a", "couple", "of"))


class Change(NamedTuple):
    """One place where two captions differ, without articles, relations of several words as one."""

    lost: list[str]
    new: list[str]


def plain(words: Sequence[str], articles: frozenset[str] = _ARTICLES) -> list[str]:
    """Without articles; numbers as words; relations that mean the same by one name: ``beside`` as ``next to``."""
    known = lexicon()
    kept: list[str] = []
    i = 0
    while i < len(words):
        for phrase, name in known.same_relations:
            if tuple(words[i : i + len(phrase)]) == phrase:
                kept.append(name)
                i += len(phrase)
                break
        else:
            if tuple(words[i : i + 3]) in _TWO:
                i += 2
                if words[i + 1 : i + 2] and words[i + 1] not in known.plural_only:  # "a pair of jeans" is no two
                    kept.append("two")
            elif words[i].isdecimal() and words[i].isascii() and 2 <= int(words[i]) < 2 + len(known.numbers):
                kept.append(known.numbers[int(words[i]) - 2])
            elif words[i] not in articles:
                kept.append(words[i])
            i += 1
    return kept


def changes(before: Sequence[str], after: Sequence[str]) -> list[Change]:
    """Where two plain captions differ in meaning; ``[]`` where they only use other words for the same."""
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    found = [Change(list(before[a:b]), list(after[c:d])) for op, a, b, c, d in matcher.get_opcodes() if op != "equal"]
    return [
        change
        for change in found
        if len(change.lost) != len(change.new) or not all(map(_same, change.lost, change.new))
    ]


def without_numbers(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is counted to how many, ``a`` as ``one``, and the plain rest."""
    numbers, rest = [], []
    for word in plain(words, articles=frozenset(["the", "some"])):
        if word in ("a", "one"):
            numbers.append("one")
        else:
            (numbers if word in lexicon().numbers or word.isdecimal() else rest).append(word)
    return numbers, rest


def who_is_what(caption: Caption) -> Counter:
    """The things of a caption, each with its adjectives in any order."""
    return Counter(
        (phrase.noun(caption.tokens), frozenset(caption.tokens[i].text.lower() for i in phrase.adjectives))
        for phrase in caption.phrases
    )


def is_turned(caption: Caption, after: Sequence[str]) -> bool:
    """Whether ``after``, in words, is the caption with two things exchanged that may change places."""
    tokens, wanted = caption.tokens, plain(after)
    for first, second in combinations(caption.phrases, 2):
        if is_symmetric(caption, first, second):
            turned = [
                *tokens[: first.start], *tokens[second.start : second.end], *tokens[first.end : second.start],
                *tokens[first.start : first.end], *tokens[second.end :],
            ]  # fmt: skip
            if (
                plain([token.text.lower() for token in turned if token.is_word and token.text.lower() != "an"])
                == wanted
            ):
                return True
    return False


def _same(mine: str, theirs: str) -> bool:
    mine, theirs = singular(mine), singular(theirs)
    return mine == theirs or theirs in lexicon().synonyms.get(mine, ())
