"""Whether a text is a negative of its kind; if not, the reason."""

import re
from collections import Counter
from collections.abc import Sequence

from degla.hard_negatives.kinds import KINDS
from degla.hard_negatives.language.lexicon import lexicon
from degla.hard_negatives.language.paraphrase import changes, is_turned, plain, who_is_what, without_numbers
from degla.hard_negatives.language.phrases import Caption, parsed
from degla.hard_negatives.language.tagger import Tag
from degla.hard_negatives.language.words import singular, words

_CHATTER = re.compile(
    r"^(sure|certainly|of course|okay|here (is|are)|note|output|answer|negative|caption|rewritten)\b[^.]*[:!]"
    r"|\n|^\W*$|as an ai\b|language model|i('m| am) (sorry|unable)|i can('t|not)|cannot (fulfil|help|assist|comply)"
    r"|\bcaption\b.*:|```|[{}<>\[\]|]",
    re.IGNORECASE,
)
_LENGTHS = (0.6, 1.6)  # words of the negative over words of the caption
_SPARE = 2  # words more or less that no length is blamed for
_LONGEST = 4  # words that one replacement may take out
_CLASSES = {"noun": ("noun", "nouns", "proper"), "adjective": ("adjective",), "relation": ("other", "verb")}


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
    if plain(before) == plain(after):
        return "paraphrase: articles or other words for the same"
    if any(after == words(other) for other in earlier):
        return "duplicate"
    low, high = (factor * len(before) for factor in _LENGTHS)
    if not min(low, len(before) - _SPARE) <= len(after) <= max(high, len(before) + _SPARE):
        return "length"
    if kind not in KINDS:
        return ""
    change, word_class = KINDS[kind]
    if word_class == "number":
        return _wrong_count(before, after)
    if change == "replace":
        return _wrong_replacement(word_class, before, after, parsed(caption, tag))
    if _lemmas(before) != _lemmas(after):
        return "wrong kind: not the same words"
    if is_turned(parsed(caption, tag), after):
        return "paraphrase: the two may change places"
    return _wrong_swap(word_class, before, after, parsed(caption, tag), parsed(text, tag)) if change == "swap" else ""


def _wrong_swap(word_class: str, before: list[str], after: list[str], seen: Caption, now: Caption) -> str:
    def in_order(text: list[str], classes: Sequence[str]) -> list[str]:
        named = {singular(t.text.lower()) for t, k in zip(seen.tokens, seen.classes, strict=True) if k in classes}
        return [singular(word) for word in text if singular(word) in named]

    if in_order(before, _CLASSES[word_class]) == in_order(after, _CLASSES[word_class]):
        return f"wrong kind: no {word_class} moved"
    if word_class == "adjective":
        if who_is_what(seen) == who_is_what(now):
            return "paraphrase: every thing keeps its adjectives"
        things = [
            singular(token.text.lower()) for phrase in seen.phrases for token in seen.tokens[phrase.head : phrase.end]
        ]
        if [w for w in map(singular, before) if w in things] != [w for w in map(singular, after) if w in things]:
            return "wrong kind: things moved, not adjectives alone"
    return ""


def _wrong_replacement(word_class: str, before: list[str], after: list[str], seen: Caption) -> str:
    if Counter(before) == Counter(after):
        return "wrong kind: moved, not replaced"
    found = changes(plain(before), plain(after))
    if not found:
        return "paraphrase: a word for the same"
    lost, new = found[0]
    if any(change != found[0] for change in found) or len(lost) > _LONGEST or len(new) > len(lost) + 1:
        return "wrong kind: more than one thing changed"
    if not lost or not new:
        return "wrong kind: nothing replaced"
    by_word = {t.text.lower(): k for t, k in zip(seen.tokens, seen.classes, strict=True)}
    classes = {by_word.get(word, "other") for word in lost}  # a relation of several words is in no class
    compound = " ".join([*lost[:-1], singular(lost[-1])])
    if not classes & {*_CLASSES[word_class]} and not (word_class == "noun" and compound in lexicon().nouns):
        return f"wrong kind: no {word_class} replaced"
    known = lexicon()
    if word_class == "relation":
        if any(singular(word) in known.nouns or word in known.adjectives for word in new):
            return "wrong kind: no relation put in"
    elif classes & {*_CLASSES["adjective" if word_class == "noun" else "noun"]} and compound not in known.nouns:
        return f"wrong kind: more than {'a noun' if word_class == 'noun' else 'an adjective'} replaced"
    return ""


def _wrong_count(before: list[str], after: list[str]) -> str:
    (old, things), (new, same_things) = without_numbers(before), without_numbers(after)
    if old == new or len(old) != len(new):
        return "wrong kind: no number changed"
    return "wrong kind: more than the number changed" if changes(things, same_things) else ""


def _lemmas(text: list[str]) -> Counter:
    """Words in the singular; articles may come and go with the number."""
    return Counter(singular(word) for word in text if word not in ("a", "the"))
