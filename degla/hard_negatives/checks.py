"""Checks whether a text is a hard negative of the wanted kind."""

import re
from collections import Counter
from collections.abc import Sequence

from degla.hard_negatives.kinds import KINDS
from degla.hard_negatives.language.lexicon import lexicon
from degla.hard_negatives.language.paraphrase import (
    is_symmetric_swap,
    meaning_changes,
    normalize,
    nouns_with_adjectives,
    split_numbers,
)
from degla.hard_negatives.language.phrases import Caption, parse
from degla.hard_negatives.language.tagger import Tagger
from degla.hard_negatives.language.words import lower_words, singular

_CHATTER = re.compile(
    r"^(sure|certainly|of course|okay|here (is|are)|note|output|answer|negative|caption|rewritten)\b[^.]*[:!]"
    r"|\n|^\W*$|as an ai\b|language model|i('m| am) (sorry|unable)|i can('t|not)|cannot (fulfil|help|assist|comply)"
    r"|\bcaption\b.*:|```|[{}<>\[\]|]",
    re.IGNORECASE,
)
_LENGTH_RATIOS = (0.6, 1.6)  # allowed number of words of the negative over that of the caption
_LENGTH_TOLERANCE = 2  # words; a smaller difference of length is always allowed
_CHARACTER_RATIO = 4  # a text with more characters than this ratio and the tolerance allow is not read any further
_CHARACTER_TOLERANCE = 200
_MAX_REMOVED_WORDS = 4  # by one replacement
_WORD_CLASSES = {"noun": ("noun", "nouns", "proper"), "adjective": ("adjective",), "relation": ("other", "verb")}


def max_length(caption: str) -> int:
    """Return the number of characters from which a text is too long to be a negative of the caption."""
    return _CHARACTER_RATIO * len(caption) + _CHARACTER_TOLERANCE


def rejection_reason(caption: str, text: str, kind: str, tagger: Tagger, earlier: Sequence[str] = ()) -> str:
    """Return why ``text`` cannot be a hard negative of ``caption``; "" where it can.

    Texts alone cannot show whether a negative is false of the image. The checks cover what texts do show: the text is
    neither a paraphrase of the caption nor chatter, has a similar length, and makes only the change of its kind.

    Args:
        caption: the original caption.
        text: the candidate.
        kind: a key of ``KINDS``. For any other kind the checks expect no particular change.
        tagger: word classes.
        earlier: texts that were accepted for this caption before.
    """
    text = text.strip()
    if not text:
        return "empty"
    if len(text) > max_length(caption):  # before all others: some checks take quadratic time
        return "length"
    if _CHATTER.search(text) and not _CHATTER.search(caption):
        return "refusal or chatter"
    before, after = lower_words(caption), lower_words(text)
    if before == after:
        return "equal to the caption"
    if normalize(before) == normalize(after):
        return "paraphrase: only articles or synonyms changed"
    if any(after == lower_words(other) for other in earlier):
        return "duplicate"
    low, high = (ratio * len(before) for ratio in _LENGTH_RATIOS)
    if not min(low, len(before) - _LENGTH_TOLERANCE) <= len(after) <= max(high, len(before) + _LENGTH_TOLERANCE):
        return "length"
    return _wrong_kind(kind, before, after, parse(caption, tagger), text, tagger) if kind in KINDS else ""


def _wrong_kind(kind: str, before: list[str], after: list[str], caption: Caption, text: str, tagger: Tagger) -> str:
    change, word_class = KINDS[kind]
    if word_class == "number":
        return _wrong_count(before, after)
    if change == "replace":
        return _wrong_replacement(word_class, before, after, caption)
    if _lemmas(before) != _lemmas(after):
        return "wrong kind: not the same words"
    if is_symmetric_swap(caption, after):
        return "paraphrase: a symmetric relation was swapped"
    return _wrong_swap(word_class, before, after, caption, parse(text, tagger)) if change == "swap" else ""


def _wrong_swap(word_class: str, before: list[str], after: list[str], caption: Caption, negative: Caption) -> str:
    moved = _words_of_class(caption, _WORD_CLASSES[word_class])
    if _in_order(before, moved) == _in_order(after, moved):
        return f"wrong kind: no {word_class} moved"
    if word_class == "adjective":
        if nouns_with_adjectives(caption) == nouns_with_adjectives(negative):
            return "paraphrase: every thing keeps its adjectives"
        tokens = caption.tokens
        nouns = {
            singular(token.text.lower()) for phrase in caption.phrases for token in tokens[phrase.head : phrase.end]
        }
        if _in_order(before, nouns) != _in_order(after, nouns):
            return "wrong kind: things moved, not adjectives alone"
    return ""


def _words_of_class(caption: Caption, classes: Sequence[str]) -> set[str]:
    pairs = zip(caption.tokens, caption.classes, strict=True)
    return {singular(token.text.lower()) for token, word_class in pairs if word_class in classes}


def _in_order(words: list[str], wanted: set[str]) -> list[str]:
    """Return the wanted words, singular, in the order of the text."""
    return [word for word in map(singular, words) if word in wanted]


def _wrong_replacement(word_class: str, before: list[str], after: list[str], caption: Caption) -> str:
    if Counter(before) == Counter(after):
        return "wrong kind: moved, not replaced"
    changes = meaning_changes(normalize(before), normalize(after))
    if not changes:
        return "paraphrase: a synonym"
    removed, added = changes[0]
    is_one_change = all(change == changes[0] for change in changes)
    if not is_one_change or len(removed) > _MAX_REMOVED_WORDS or len(added) > len(removed) + 1:
        return "wrong kind: more than one thing changed"
    if not removed or not added:
        return "wrong kind: nothing replaced"
    class_by_word = {t.text.lower(): c for t, c in zip(caption.tokens, caption.classes, strict=True)}
    classes = {class_by_word.get(word, "other") for word in removed}  # a relation of several words has no class
    is_compound = " ".join([*removed[:-1], singular(removed[-1])]) in lexicon().nouns
    if not classes & {*_WORD_CLASSES[word_class]} and not (word_class == "noun" and is_compound):
        return f"wrong kind: no {word_class} replaced"
    if word_class == "relation":
        if any(singular(word) in lexicon().nouns or word in lexicon().adjectives for word in added):
            return "wrong kind: not replaced by a relation"
    elif classes & {*_WORD_CLASSES["adjective" if word_class == "noun" else "noun"]} and not is_compound:
        return f"wrong kind: more than {'a noun' if word_class == 'noun' else 'an adjective'} replaced"
    return ""


def _wrong_count(before: list[str], after: list[str]) -> str:
    (old_numbers, old_rest), (new_numbers, new_rest) = split_numbers(before), split_numbers(after)
    if old_numbers == new_numbers or len(old_numbers) != len(new_numbers):
        return "wrong kind: no number changed"
    return "wrong kind: more than the number changed" if meaning_changes(old_rest, new_rest) else ""


def _lemmas(words: list[str]) -> Counter[str]:
    """Count the words, singular. Articles are left out, because they depend on the number of the noun."""
    return Counter(singular(word) for word in words if word not in ("a", "the"))
