"""The words that the rules know, from ``lexicon.yaml``."""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import yaml


class Lexicon(NamedTuple):
    """Curated words. ``nouns`` and ``adjectives``: word -> what may stand in for it, one entry a meaning."""

    nouns: dict[str, list[str]]
    adjectives: dict[str, list[str]]
    relations: list[tuple[tuple[str, ...], list[str]]]  # words of a phrase -> its rivals; the longest first
    same_relations: list[tuple[tuple[str, ...], str]]  # words of a phrase -> the name of its meaning; the longest first
    numbers: list[str]
    mass: frozenset[str]
    plural_only: frozenset[str]
    worn: frozenset[str]
    light_nouns: frozenset[str]
    light_adjectives: frozenset[str]
    symmetric: frozenset[tuple[str, ...]]
    symmetric_between_the_living: frozenset[tuple[str, ...]]
    postures: frozenset[str]
    living: frozenset[str]
    synonyms: dict[str, frozenset[str]]


@cache
def lexicon() -> Lexicon:
    """Read once."""
    raw = yaml.safe_load(files("degla.hard_negatives.language").joinpath("lexicon.yaml").read_text(encoding="utf-8"))
    synonyms: dict[str, set[str]] = {}
    meanings = [*raw["synonyms"], *raw["colours"]]
    for group in (*raw["nouns"].values(), *raw["adjectives"].values()):
        meanings += [meaning for meaning in group if not _is_compound(meaning)]
    for meaning in meanings:
        for word in meaning.split():
            synonyms.setdefault(word, set()).update(meaning.split())
    relations = [(tuple(phrases[0].split()), phrases[1:]) for phrases in raw["relations"]]
    relations += [(tuple(other.split()), [phrases[0]]) for phrases in raw["relations"] for other in phrases[1:]]
    same_relations = {phrase: phrase for phrases in raw["relations"] for phrase in phrases}
    same_relations |= {phrase: phrases[0] for phrases in raw["same_relations"] for phrase in phrases}
    known: dict[tuple[str, ...], list[str]] = {}
    for phrase, rivals in relations:
        known.setdefault(phrase, rivals)
    return Lexicon(
        _rivals(raw["nouns"].values(), synonyms),
        _rivals([raw["colours"], *raw["adjectives"].values()], synonyms),
        sorted(known.items(), key=lambda item: -len(item[0])),
        sorted(
            ((tuple(phrase.split()), name) for phrase, name in same_relations.items()), key=lambda item: -len(item[0])
        ),
        raw["numbers"],
        frozenset(raw["mass"].split()),
        frozenset(raw["plural_only"].split()),
        _members(raw, "worn") | frozenset(raw["worn_too"].split()),
        frozenset(raw["light_nouns"].split()),
        frozenset(raw["light_adjectives"].split()),
        frozenset(tuple(phrase.split()) for phrase in raw["symmetric"]),
        frozenset(tuple(phrase.split()) for phrase in raw["symmetric_between_the_living"]),
        frozenset(raw["postures"].split()),
        _members(raw, "living"),
        {word: frozenset(others) for word, others in synonyms.items()},
    )


def _rivals(groups: Iterable[list[str]], synonyms: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """Every word with the first words of the other meanings of its groups."""
    rivals: dict[str, dict[str, None]] = {}
    for meanings in groups:
        for meaning in meanings:
            others = [_heads(other)[0] for other in meanings if other != meaning]
            for word in _heads(meaning):
                rivals.setdefault(word, {}).update(dict.fromkeys(others))
    return {word: [o for o in others if o not in synonyms.get(word, ())] for word, others in rivals.items()}


def _members(raw: dict, name: str) -> frozenset[str]:
    return frozenset(word for group in raw[name] for meaning in raw["nouns"][group] for word in meaning.split())


def _heads(meaning: str) -> list[str]:
    return [meaning] if _is_compound(meaning) else meaning.split()


_COMPOUNDS = {
    "parking lot", "living room", "dining room", "washing machine", "hot dog", "stop sign", "fire hydrant",
    "parking meter", "street lamp", "traffic light", "railroad track",
}  # fmt: skip


def _is_compound(meaning: str) -> bool:
    return meaning in _COMPOUNDS
