"""Hard negatives by rule, from curated words: offline, seeded, and without a language model."""

import random
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

from degla.hard_negatives.language.lexicon import lexicon
from degla.hard_negatives.language.phrases import Caption, Phrase, is_symmetric, parse
from degla.hard_negatives.language.tagger import load_tagger
from degla.hard_negatives.language.words import Token, finish_caption, lower_words, plural, singular

VERSION = 4  # part of the key of every stored answer; raise it when a rule or the lexicon changes

_MAX_SHUFFLES = 20  # orders that are tried for one caption


class NoNegative(ValueError):
    """The caption has nothing that this rule could change.

    The message says what is missing.
    """


class Rules:
    """Writes hard negatives by rule.

    Args:
        tagger: ``hanta``, ``lexicon``, or the name of an installed spaCy model.
        seed: equal seeds, captions, kinds and lexicons give equal negatives.
    """

    def __init__(self, tagger: str = "hanta", seed: int = 0):
        self.tagger = tagger
        self.seed = seed

    @property
    def model(self) -> str:
        """The name that stands for the rules in the keys of the answers."""
        return f"rules-{self.tagger}"

    def write(self, caption: str, kind: str, count: int) -> list[str]:
        """Return up to ``count`` different negatives.

        Args:
            caption: the original caption.
            kind: a key of ``KINDS``.
            count: how many are wanted.

        Raises:
            NoNegative: the rule finds none.
        """
        rng = random.Random(f"{self.seed} {kind} {caption}")
        negatives: dict[str, None] = {}
        for text in _RULES[kind](parse(caption, load_tagger(self.tagger)), rng):
            if lower_words(text) != lower_words(caption):
                negatives.setdefault(text)
            if len(negatives) == count:
                break
        if not negatives:
            raise NoNegative(_WHAT_IS_MISSING[kind])
        return list(negatives)


def _reshuffle(caption: Caption, rng: random.Random) -> Iterable[str]:
    """Yield the phrases and the words between them in other orders.

    Whole phrases are moved, because moving single words would be less fluent and no more false.
    """
    phrase_ends = {phrase.start: phrase.end for phrase in caption.phrases}
    units: list[list[Token]] = []
    i = 0
    while i < len(caption.tokens):
        end = phrase_ends.get(i, i + 1)
        unit = _spaced_words(caption.tokens[i:end])
        units += [unit] if unit else []
        i = end
    if len(units) < 3:
        units = [[word] for word in _spaced_words(caption.tokens)]
    if len(units) < 2:
        return
    last_mark = [] if caption.tokens[-1].is_word else caption.tokens[-1:]
    for _ in range(_MAX_SHUFFLES):
        order = rng.sample(units, len(units))
        yield finish_caption(caption.text, [*(token for unit in order for token in unit), *last_mark], caption.proper)


def _spaced_words(tokens: Sequence[Token]) -> list[Token]:
    return [token._replace(space=" ") for token in tokens if token.is_word]


def _swap_nouns(caption: Caption, rng: random.Random) -> Iterable[str]:
    pairs = [
        (first, second)
        for first, second in combinations(_movable_phrases(caption), 2)
        if first.noun(caption.tokens) != second.noun(caption.tokens) and not is_symmetric(caption, first, second)
    ]
    for first, second in rng.sample(pairs, len(pairs)):
        changed = _exchange_nouns(caption, first, second)
        if changed is not None:
            yield finish_caption(caption.text, changed, caption.proper)


def _exchange_nouns(caption: Caption, first: Phrase, second: Phrase) -> list[Token] | None:
    """Return the tokens with the two nouns exchanged, each in the number of its new position; None if impossible."""
    tokens = caption.tokens
    is_mass = [phrase.is_bare and not phrase.is_plural for phrase in (first, second)]
    if any(is_mass):  # "grass" has no plural and takes no article, so whole phrases are exchanged
        if first.is_plural != second.is_plural:
            return None
        ranges = [(first.start, first.end), (second.start, second.end)]
        parts = [tokens[start:end] for start, end in ranges]
    elif first.is_plural != second.is_plural and {first.noun(tokens), second.noun(tokens)} & lexicon().plural_only:
        return None
    else:
        ranges = [(first.head, first.end), (second.head, second.end)]
        parts = [
            _in_number(tokens[start:end], source.is_plural, target.is_plural)
            for (start, end), source, target in zip(ranges, (first, second), (second, first), strict=True)
        ]
    (a, b), (c, d) = ranges
    to_first = [token._replace(space=" ") for token in parts[1]]
    to_second = [token._replace(space=" ") for token in parts[0]]
    to_first[0] = to_first[0]._replace(space=tokens[a].space)
    to_second[0] = to_second[0]._replace(space=tokens[c].space)
    return [*tokens[:a], *to_first, *tokens[b:c], *to_second, *tokens[d:]]


def _in_number(head: list[Token], is_plural: bool, want_plural: bool) -> list[Token]:
    last = head[-1]
    if is_plural and not want_plural:
        last = last._replace(text=singular(last.text.lower()))
    elif want_plural and not is_plural:
        last = last._replace(text=plural(last.text.lower()))
    return [*head[:-1], last]


def _swap_adjectives(caption: Caption, rng: random.Random) -> Iterable[str]:
    tokens = caption.tokens
    pairs: list[tuple[int, int]] = []
    for first, second in combinations(caption.phrases, 2):
        if first.noun(tokens) == second.noun(tokens) and is_symmetric(caption, first, second):
            continue  # "a red and a blue ball"
        pairs += [
            (i, j)
            for i in first.adjectives
            for j in second.adjectives
            if _can_swap_adjectives(tokens[i].text.lower(), tokens[j].text.lower())
            and not _has_adjective(caption, second, tokens[i].text)
            and not _has_adjective(caption, first, tokens[j].text)
        ]
    for i, j in rng.sample(pairs, len(pairs)):
        changed = list(tokens)
        changed[i], changed[j] = tokens[i]._replace(text=tokens[j].text), tokens[j]._replace(text=tokens[i].text)
        yield finish_caption(caption.text, changed, caption.proper)


def _can_swap_adjectives(word: str, other: str) -> bool:
    light = lexicon().light_adjectives
    return word not in light and other not in light and other not in lexicon().synonyms.get(word, frozenset())


def _has_adjective(caption: Caption, phrase: Phrase, adjective: str) -> bool:
    return adjective.lower() in {caption.tokens[i].text.lower() for i in phrase.adjectives}


def _replace_adjectives(caption: Caption, rng: random.Random) -> Iterable[str]:
    rivals_of = lexicon().adjectives
    offsets = [
        i
        for phrase in caption.phrases
        for i in phrase.adjectives
        if caption.tokens[i].text.lower() in rivals_of.keys() - lexicon().light_adjectives
    ]
    for i in rng.sample(offsets, len(offsets)):
        rivals = _without_present(rivals_of[caption.tokens[i].text.lower()], caption)
        for rival in rng.sample(rivals, len(rivals)):
            yield _with_text(caption, i, i + 1, rival)


def _replace_nouns(caption: Caption, rng: random.Random) -> Iterable[str]:
    phrases = _movable_phrases(caption)
    for phrase in rng.sample(phrases, len(phrases)):
        head, noun = _head_and_noun(caption, phrase)
        rivals = lexicon().nouns.get(noun, [])
        for rival in rng.sample(rivals, len(rivals)):
            if not _without_present([rival], caption) or not _fits_grammar(caption, phrase, rival):
                continue
            last = rival.split()[-1]
            if last not in lexicon().plural_only:
                text = rival[: len(rival) - len(last)] + (plural(last) if phrase.is_plural else last)
                yield _with_text(caption, head, phrase.end, text)
            elif phrase.is_plural:  # there is no "a jeans"
                yield _with_text(caption, head, phrase.end, rival)


def _head_and_noun(caption: Caption, phrase: Phrase) -> tuple[int, str]:
    """Return the offset and the name of the thing. "hot dogs" are not dogs, although "hot" looks like an adjective."""
    noun = phrase.noun(caption.tokens)
    before = [token.text.lower() for token in caption.tokens[phrase.start : phrase.end - 1]]
    if before and f"{before[-1]} {noun}" in lexicon().nouns:
        return phrase.end - 2, f"{before[-1]} {noun}"
    return phrase.head, noun


def _fits_grammar(caption: Caption, phrase: Phrase, rival: str) -> bool:
    """Return whether a noun fits the phrase: not "a snow", and not "plays stick" for "plays tennis"."""
    mass = lexicon().mass
    if phrase.is_bare and not phrase.is_plural:
        return rival in mass or phrase.noun(caption.tokens) not in mass
    is_counted = phrase.is_plural or caption.tokens[phrase.start].text.lower() in ("a", "an", "one", "another", "each")
    return not (is_counted and rival in mass)


def _replace_relations(caption: Caption, rng: random.Random) -> Iterable[str]:
    words = [token.text.lower() for token in caption.tokens]
    candidates: list[tuple[int, int, list[str]]] = []
    taken: set[int] = set()  # offsets inside a longer relation
    for relation, rivals in lexicon().relations:
        for start in range(len(words) - len(relation) + 1):
            span = range(start, start + len(relation))
            if tuple(words[start : span.stop]) == relation and not taken & set(span):
                taken |= set(span)
                if _is_relation(caption, start, span.stop):
                    candidates.append((start, span.stop, rivals))
    for start, end, rivals in rng.sample(candidates, len(candidates)):
        for rival in rng.sample(rivals, len(rivals)):
            yield _with_text(caption, start, end, rival)


def _is_relation(caption: Caption, start: int, end: int) -> bool:
    """Return whether ``tokens[start:end]`` relates two things.

    A single preposition must come before a thing. Otherwise "looking up" and "in red" would be changed.
    """
    if end - start > 1:
        return True
    following = [p for p in _movable_phrases(caption) if p.start == end and not (p.is_bare and not p.is_plural)]
    worn = lexicon().worn if caption.tokens[start].text.lower() == "in" else frozenset()
    return any(phrase.noun(caption.tokens) not in worn for phrase in following)


def _change_counts(caption: Caption, rng: random.Random) -> Iterable[str]:
    numbers = lexicon().numbers
    offsets = [
        i
        for phrase in caption.phrases
        for i in range(phrase.start, phrase.head)
        if phrase.is_plural and caption.tokens[i].text.lower() in numbers
    ]
    for i in rng.sample(offsets, len(offsets)):
        at = numbers.index(caption.tokens[i].text.lower())
        near = [number for number in numbers[max(0, at - 2) : at + 3] if number != numbers[at]]
        for rival in rng.sample(near, len(near)):
            yield _with_text(caption, i, i + 1, rival)


def _movable_phrases(caption: Caption) -> list[Phrase]:
    """Return the phrases whose head names a thing that could stand elsewhere: not "front", "group" or "side"."""
    return [phrase for phrase in caption.phrases if phrase.noun(caption.tokens) not in lexicon().light_nouns]


def _without_present(rivals: list[str], caption: Caption) -> list[str]:
    """Leave out rivals that the caption mentions already, by this word or by a synonym."""
    words = {token.text.lower() for token in caption.tokens}
    words |= {singular(word) for word in words}
    synonyms = lexicon().synonyms
    return [rival for rival in rivals if not ({rival, *synonyms.get(rival, ())} & words)]


def _with_text(caption: Caption, start: int, end: int, text: str) -> str:
    """Return the caption with ``tokens[start:end]`` replaced by ``text``."""
    first, *rest = text.split()
    new = [Token(first, caption.tokens[start].space), *(Token(word) for word in rest)]
    return finish_caption(caption.text, [*caption.tokens[:start], *new, *caption.tokens[end:]], caption.proper)


_RULES: dict[str, Callable[[Caption, random.Random], Iterable[str]]] = {
    "reshuffle_order": _reshuffle,
    "swap_nouns": _swap_nouns,
    "swap_adjectives": _swap_adjectives,
    "replace_adjectives": _replace_adjectives,
    "replace_nouns": _replace_nouns,
    "replace_relation": _replace_relations,
    "change_count": _change_counts,
}
_WHAT_IS_MISSING = {
    "reshuffle_order": "fewer than two words",
    "swap_nouns": "no two things that could change places",
    "swap_adjectives": "no two adjectives of different things",
    "replace_adjectives": "no adjective that the lexicon knows",
    "replace_nouns": "no thing that the lexicon knows",
    "replace_relation": "no relation that the lexicon knows",
    "change_count": "no number of things",
}
