"""Negatives by rule: seeded, offline, from curated words; the stand-in for a language model."""

import random
from collections.abc import Callable, Iterable
from itertools import combinations

from degla.hard_negatives.language.lexicon import lexicon
from degla.hard_negatives.language.phrases import Caption, Phrase, is_symmetric, parsed
from degla.hard_negatives.language.tagger import tagger
from degla.hard_negatives.language.words import Token, finished, plural, singular, words

VERSION = 3  # part of what an answer is filed under; raise it when a rule or the lexicon changes


class Unable(ValueError):
    """The caption has nothing that this rule could change; the message says what."""


class Rules:
    """Writes negatives by rule.

    Args:
        tagger: see ``degla.hard_negatives.language.tagger``.
        seed: the same seed, caption, kind and lexicon give the same negatives.
    """

    def __init__(self, tagger: str = "hanta", seed: int = 0):
        self.tagger = tagger
        self.seed = seed

    @property
    def model(self) -> str:
        """What the answers are filed under."""
        return f"rules-{self.tagger}"

    def write(self, caption: str, kind: str, count: int) -> list[str]:
        """Up to ``count`` different negatives.

        Raises:
            Unable: there is none.
        """
        rng = random.Random(f"{self.seed} {kind} {caption}")
        found: dict[str, None] = {}
        for text in _RULES[kind](parsed(caption, tagger(self.tagger)), rng):
            if words(text) != words(caption):
                found.setdefault(text)
            if len(found) == count:
                break
        if not found:
            raise Unable(_NOTHING[kind])
        return list(found)


def _reshuffled(caption: Caption, rng: random.Random) -> Iterable[str]:
    """Phrases and the words between them in another order: more fluent than loose words, as false."""
    units, i = [], 0
    starts = {phrase.start: phrase.end for phrase in caption.phrases}
    marks = [token for token in caption.tokens if not token.is_word]
    while i < len(caption.tokens):
        end = starts.get(i, i + 1)
        unit = [token._replace(space=" ") for token in caption.tokens[i:end] if token.is_word]
        units += [unit] if unit else []
        i = end
    if len(units) < 3:
        units = [[token._replace(space=" ")] for token in caption.tokens if token.is_word]
    if len(units) < 2:
        return
    last = marks[-1:] if caption.tokens[-1:] == marks[-1:] else []
    for _ in range(20):
        order = rng.sample(units, len(units))
        yield finished(caption.text, [*(token for unit in order for token in unit), *last], caption.proper)


def _swapped_nouns(caption: Caption, rng: random.Random) -> Iterable[str]:
    pairs = [
        (first, second)
        for first, second in combinations(_things(caption), 2)
        if first.noun(caption.tokens) != second.noun(caption.tokens) and not is_symmetric(caption, first, second)
    ]
    for first, second in rng.sample(pairs, len(pairs)):
        changed = _exchanged(caption, first, second)
        if changed is not None:
            yield finished(caption.text, changed, caption.proper)


def _exchanged(caption: Caption, first: Phrase, second: Phrase) -> list[Token] | None:
    tokens = caption.tokens
    mass = [phrase.is_bare and not phrase.is_plural for phrase in (first, second)]
    if any(mass):  # "grass" has no plural and takes no article: it brings its whole phrase along
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
    here = [token._replace(space=" ") for token in parts[1]]
    there = [token._replace(space=" ") for token in parts[0]]
    here[0] = here[0]._replace(space=tokens[a].space)
    there[0] = there[0]._replace(space=tokens[c].space)
    return [*tokens[:a], *here, *tokens[b:c], *there, *tokens[d:]]


def _in_number(head: list[Token], is_plural: bool, want_plural: bool) -> list[Token]:
    last = head[-1]
    if is_plural and not want_plural:
        last = last._replace(text=singular(last.text.lower()))
    elif want_plural and not is_plural:
        last = last._replace(text=plural(last.text.lower()))
    return [*head[:-1], last]


def _swapped_adjectives(caption: Caption, rng: random.Random) -> Iterable[str]:
    tokens = caption.tokens
    light = lexicon().light_adjectives
    pairs = []
    for first, second in combinations(_things(caption, light=True), 2):
        if first.noun(tokens) == second.noun(tokens) and is_symmetric(caption, first, second):
            continue  # a red and a blue ball
        pairs += [
            (i, j)
            for i in first.adjectives
            for j in second.adjectives
            if tokens[i].text.lower() not in light
            and tokens[j].text.lower() not in light | lexicon().synonyms.get(tokens[i].text.lower(), frozenset())
            and not _says(caption, second, tokens[i].text)
            and not _says(caption, first, tokens[j].text)
        ]
    for i, j in rng.sample(pairs, len(pairs)):
        changed = list(tokens)
        changed[i], changed[j] = tokens[i]._replace(text=tokens[j].text), tokens[j]._replace(text=tokens[i].text)
        yield finished(caption.text, changed, caption.proper)


def _says(caption: Caption, phrase: Phrase, adjective: str) -> bool:
    return adjective.lower() in {caption.tokens[i].text.lower() for i in phrase.adjectives}


def _replaced_adjectives(caption: Caption, rng: random.Random) -> Iterable[str]:
    known = lexicon().adjectives
    places = [
        i
        for phrase in caption.phrases
        for i in phrase.adjectives
        if caption.tokens[i].text.lower() in known and caption.tokens[i].text.lower() not in lexicon().light_adjectives
    ]
    for i in rng.sample(places, len(places)):
        rivals = _absent(known[caption.tokens[i].text.lower()], caption)
        for rival in rng.sample(rivals, len(rivals)):
            yield _with(caption, i, i + 1, rival)


def _replaced_nouns(caption: Caption, rng: random.Random) -> Iterable[str]:
    known = lexicon().nouns
    things = _things(caption)
    for phrase in rng.sample(things, len(things)):
        head, noun = phrase.head, phrase.noun(caption.tokens)
        before = [token.text.lower() for token in caption.tokens[phrase.start : phrase.end - 1]]
        if before and f"{before[-1]} {noun}" in known:  # "hot dogs" are no dogs, though "hot" looks like an adjective
            head, noun = phrase.end - 2, f"{before[-1]} {noun}"
        rivals = known.get(noun, [])
        for rival in rng.sample(rivals, len(rivals)):
            if rival in _absent([rival], caption) and _fits(caption, phrase, rival):
                last = rival.split()[-1]
                if last in lexicon().plural_only:
                    if phrase.is_plural:  # never "a jeans"
                        yield _with(caption, head, phrase.end, rival)
                    continue
                text = rival[: len(rival) - len(last)] + (plural(last) if phrase.is_plural else last)
                yield _with(caption, head, phrase.end, text)


def _fits(caption: Caption, phrase: Phrase, rival: str) -> bool:
    """Never "a snow", and not "plays stick" for "plays tennis"."""
    mass = lexicon().mass
    if phrase.is_bare and not phrase.is_plural:
        return rival in mass or phrase.noun(caption.tokens) not in mass
    counted = phrase.is_plural or caption.tokens[phrase.start].text.lower() in ("a", "an", "one", "another", "each")
    return not (counted and rival in mass)


def _replaced_relations(caption: Caption, rng: random.Random) -> Iterable[str]:
    lower = [token.text.lower() for token in caption.tokens]
    places: list[tuple[int, int, list[str]]] = []
    taken: set[int] = set()
    for phrase, rivals in lexicon().relations:
        for i in range(len(lower) - len(phrase) + 1):
            span = range(i, i + len(phrase))
            if tuple(lower[i : span.stop]) == phrase and not taken & set(span):
                taken |= set(span)
                if _is_relation(caption, i, span.stop):
                    places.append((i, span.stop, rivals))
    for start, end, rivals in rng.sample(places, len(places)):
        for rival in rng.sample(rivals, len(rivals)):
            yield _with(caption, start, end, rival)


def _is_relation(caption: Caption, start: int, end: int) -> bool:
    """A single preposition must stand before a thing, or "looking up", "in front" and "in red" would be changed."""
    if end - start > 1:
        return True
    things = [p for p in _things(caption) if p.start == end and not (p.is_bare and not p.is_plural)]
    worn = lexicon().worn if caption.tokens[start].text.lower() == "in" else ()
    return any(p.noun(caption.tokens) not in worn for p in things)


def _changed_counts(caption: Caption, rng: random.Random) -> Iterable[str]:
    numbers = lexicon().numbers
    places = [
        (phrase, i)
        for phrase in caption.phrases
        for i in range(phrase.start, phrase.head)
        if phrase.is_plural and caption.tokens[i].text.lower() in numbers
    ]
    for _, i in rng.sample(places, len(places)):
        at = numbers.index(caption.tokens[i].text.lower())
        near = [n for n in numbers[max(0, at - 2) : at + 3] if n != numbers[at]]
        for rival in rng.sample(near, len(near)):
            yield _with(caption, i, i + 1, rival)


def _things(caption: Caption, light: bool = False) -> list[Phrase]:
    """Phrases whose heads name something that could stand elsewhere."""
    unfit = lexicon().light_nouns
    return [phrase for phrase in caption.phrases if light or phrase.noun(caption.tokens) not in unfit]


def _absent(rivals: list[str], caption: Caption) -> list[str]:
    """Those that the caption does not speak of already, by this name or another."""
    there = {singular(token.text.lower()) for token in caption.tokens} | {t.text.lower() for t in caption.tokens}
    same = lexicon().synonyms
    return [rival for rival in rivals if not ({rival, *same.get(rival, ())} & there)]


def _with(caption: Caption, start: int, end: int, text: str) -> str:
    first, *rest = text.split()
    space = caption.tokens[start].space
    new = [Token(first, space), *(Token(word) for word in rest)]
    return finished(caption.text, [*caption.tokens[:start], *new, *caption.tokens[end:]], caption.proper)


_RULES: dict[str, Callable[[Caption, random.Random], Iterable[str]]] = {
    "reshuffle_order": _reshuffled,
    "swap_nouns": _swapped_nouns,
    "swap_adjectives": _swapped_adjectives,
    "replace_adjectives": _replaced_adjectives,
    "replace_nouns": _replaced_nouns,
    "replace_relation": _replaced_relations,
    "change_count": _changed_counts,
}
_NOTHING = {
    "reshuffle_order": "fewer than two words",
    "swap_nouns": "no two things that could change places",
    "swap_adjectives": "no two adjectives of different things",
    "replace_adjectives": "no adjective that the lexicon knows",
    "replace_nouns": "no thing that the lexicon knows",
    "replace_relation": "no relation that the lexicon knows",
    "change_count": "no number of things",
}
