"""Whether a text is a negative of its kind; if not, the reason."""

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from degla.hard_negatives.kinds import KINDS
from degla.hard_negatives.lexicon import lexicon
from degla.hard_negatives.phrases import is_symmetric, parsed
from degla.hard_negatives.tagger import Tag
from degla.hard_negatives.words import singular, words

_CHATTER = re.compile(
    r"^(sure|certainly|of course|okay|here (is|are)|note|output|answer|negative|caption|rewritten)\b[^.]*[:!]"
    r"|\n|^\W*$|as an ai\b|language model|i('m| am) (sorry|unable)|i can('t|not)|cannot (fulfil|help|assist|comply)"
    r"|\bcaption\b.*:|```|[{}<>\[\]|]",
    re.IGNORECASE,
)
_LENGTHS = (0.6, 1.6)  # words of the negative over words of the caption
_SPARE = 2  # words more or less that no length is blamed for


def rejection(caption: str, text: str, kind: str, tag: Tag, earlier: Sequence[str] = ()) -> str:
    """Why ``text`` cannot be a negative of ``caption``; "" where it can.

    Whether it is false of the picture nobody knows without looking; what can be known from the texts is checked:
    not the caption in other words, the change that the kind asks for and no other, no chatter, a like length.

    Args:
        caption: the true one.
        text: what was written.
        kind: a key of ``KINDS``; of any other nothing is known, so any change will do.
        tag: tells nouns from adjectives.
        earlier: accepted for this caption before.
    """
    text = text.strip()
    if not text:
        return "empty"
    if _CHATTER.search(text) and not _CHATTER.search(caption):
        return "refusal or chatter"
    before, after = words(caption), words(text)
    if before == after:
        return "equal to the caption"
    if any(after == words(other) for other in earlier):
        return "duplicate"
    low, high = (factor * len(before) for factor in _LENGTHS)
    if not min(low, len(before) - _SPARE) <= len(after) <= max(high, len(before) + _SPARE):
        return "length"
    if kind not in KINDS:
        return ""
    kept, lost, new = _difference(before, after)
    if KINDS[kind].change == "replace":
        return _wrong_replacement(kind, caption, text, kept, lost, new, tag)
    if _lemmas(before) != _lemmas(after):
        return "wrong kind: not the same words"
    return _wrong_swap(kind, caption, before, after, tag) if KINDS[kind].change == "swap" else ""


def _wrong_swap(kind: str, caption: str, before: list[str], after: list[str], tag: Tag) -> str:
    seen = parsed(caption, tag)
    wanted = ("noun", "nouns") if KINDS[kind].word_class == "noun" else ("adjective",)
    movers = {singular(t.text.lower()) for t, k in zip(seen.tokens, seen.classes, strict=True) if k in wanted}
    old, new = ([singular(word) for word in text if singular(word) in movers] for text in (before, after))
    moved = {word for pair in zip(old, new, strict=True) if pair[0] != pair[1] for word in pair}
    if not moved:
        return f"wrong kind: no {KINDS[kind].word_class} moved"
    if kind == "swap_nouns":
        for first, second in combinations(seen.phrases, 2):
            if moved == {first.noun(seen.tokens), second.noun(seen.tokens)} and is_symmetric(seen, first, second):
                return "paraphrase: the two may change places"
    return ""


def _wrong_replacement(kind, caption, text, kept, lost: list[str], new: list[str], tag: Tag) -> str:
    if not lost or not new or not kept:
        return "wrong kind: nothing replaced"
    if len(lost) > 4 or len(new) > 4:
        return "wrong kind: more than one thing changed"
    if Counter(lost) == Counter(new):
        return "wrong kind: moved, not replaced"
    known = lexicon()
    mine, theirs = singular(lost[-1]), singular(new[-1])
    if len(lost) == len(new) == 1 and (mine == theirs or theirs in known.synonyms.get(mine, ())):
        return "paraphrase: a word for the same"
    word_class = KINDS[kind].word_class
    if word_class == "relation":
        return ""
    if word_class == "number":
        return "" if {*lost} & {*known.numbers, "one", "a"} else "wrong kind: no number changed"
    seen = parsed(caption, tag)
    of_class = ("noun", "nouns", "proper") if word_class == "noun" else ("adjective",)
    by_word = {t.text.lower(): k for t, k in zip(seen.tokens, seen.classes, strict=True)}
    if not any(by_word.get(word) in of_class for word in lost):
        return f"wrong kind: no {word_class} replaced"
    return ""


def _difference(before: list[str], after: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Words kept, lost and new."""
    kept, lost, new = [], [], []
    for operation, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if operation == "equal":
            kept += before[a:b]
        else:
            lost += before[a:b]
            new += after[c:d]
    return kept, lost, new


def _lemmas(text: list[str]) -> Counter:
    """Words in the singular; articles may come and go with the number."""
    return Counter(singular(word) for word in text if word not in ("a", "the"))
