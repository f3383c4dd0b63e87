"""The curated words of the rules, read from ``lexicon.yaml``."""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

Words = tuple[str, ...]  # the words of a phrase

# Nouns of two words. In the YAML file, a space otherwise separates synonyms.
_COMPOUNDS = {
    "parking lot", "living room", "dining room", "washing machine", "hot dog", "stop sign", "fire hydrant",
    "parking meter", "street lamp", "traffic light", "railroad track",
}  # fmt: skip


class Lexicon(NamedTuple):
    """Curated words.

    The comments of ``lexicon.yaml`` explain each list.
    """

    nouns: dict[str, list[str]]  # word -> words that may replace it, one per meaning
    adjectives: dict[str, list[str]]  # word -> words that may replace it, one per meaning
    relations: list[tuple[Words, list[str]]]  # relation -> relations that may replace it; the longest first
    same_relations: dict[str, list[tuple[Words, str]]]  # first word -> relations, each with the name of its meaning
    numbers: list[str]  # from "two" on
    mass: frozenset[str]
    plural_only: frozenset[str]
    worn: frozenset[str]
    light_nouns: frozenset[str]
    light_adjectives: frozenset[str]
    symmetric: frozenset[Words]
    symmetric_between_the_living: frozenset[Words]
    postures: frozenset[str]
    living: frozenset[str]
    synonyms: dict[str, frozenset[str]]
    also: dict[str, frozenset[str]]  # word -> more general and more specific words


@cache
def lexicon() -> Lexicon:
    """Return the lexicon of the rules.

    The file is read once per process.
    """
    text = files("degla.hard_negatives.language").joinpath("lexicon.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    synonyms, also = _synonyms(content), _also(content["also"])
    excluded = _union(synonyms, also, _confusable(content, synonyms))
    return Lexicon(
        nouns=_rivals(content["nouns"].values(), excluded),
        adjectives=_rivals([content["colours"], *content["adjectives"].values()], excluded),
        relations=_relations(content["relations"]),
        same_relations=_same_relations(content),
        numbers=content["numbers"],
        mass=frozenset(content["mass"].split()),
        plural_only=frozenset(content["plural_only"].split()),
        worn=_members(content, "worn") | frozenset(content["worn_too"].split()),
        light_nouns=frozenset(content["light_nouns"].split()),
        light_adjectives=frozenset(content["light_adjectives"].split()),
        symmetric=frozenset(tuple(phrase.split()) for phrase in content["symmetric"]),
        symmetric_between_the_living=frozenset(
            tuple(phrase.split()) for phrase in content["symmetric_between_the_living"]
        ),
        postures=frozenset(content["postures"].split()),
        living=_members(content, "living"),
        synonyms={word: frozenset(others) for word, others in synonyms.items()},
        also={word: frozenset(others) for word, others in also.items()},
    )


def _synonyms(content: dict[str, Any]) -> dict[str, set[str]]:
    """Return word -> all words that share a meaning with it, itself included."""
    meanings = [*content["synonyms"], *content["colours"]]
    for group in (*content["nouns"].values(), *content["adjectives"].values()):
        meanings += [meaning for meaning in group if meaning not in _COMPOUNDS]
    synonyms: dict[str, set[str]] = {}
    for meaning in meanings:
        for word in meaning.split():
            synonyms.setdefault(word, set()).update(meaning.split())
    return synonyms


def _also(general: Mapping[str, str]) -> dict[str, set[str]]:
    """Return word -> the words above and below it. Two words below the same word are not included."""
    also: dict[str, set[str]] = {}
    for word, specific in general.items():
        for other in specific.split():
            also.setdefault(word, set()).add(other)
            also.setdefault(other, set()).add(word)
    return also


def _confusable(content: dict[str, Any], synonyms: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return word -> words that some people use for the same thing, synonyms of both words included."""
    confusable: dict[str, set[str]] = {}
    for pair in content["confusable"]:
        first, second = _split_pair(pair)
        for word, other in ((first, second), (second, first)):
            others = {other} | synonyms.get(other, set())
            for name in {word} | synonyms.get(word, set()):
                confusable.setdefault(name, set()).update(others - {name})
    return confusable


def _split_pair(pair: str) -> tuple[str, str]:
    """Split two words, of which each can be a compound."""
    for compound in _COMPOUNDS:
        if pair.startswith(f"{compound} "):
            return compound, pair.removeprefix(f"{compound} ")
        if pair.endswith(f" {compound}"):
            return pair.removesuffix(f" {compound}"), compound
    first, second = pair.split()
    return first, second


def _union(*tables: Mapping[str, set[str]]) -> dict[str, set[str]]:
    union: dict[str, set[str]] = {}
    for table in tables:
        for word, others in table.items():
            union.setdefault(word, set()).update(others)
    return union


def _rivals(groups: Iterable[list[str]], excluded: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """Return word -> the first words of the other meanings in its groups, without those that are excluded for it."""
    rivals: dict[str, dict[str, None]] = {}
    for meanings in groups:
        for meaning in meanings:
            others = [_names(other)[0] for other in meanings if other != meaning]
            for word in _names(meaning):
                rivals.setdefault(word, {}).update(dict.fromkeys(others))
    return {word: [other for other in others if other not in excluded.get(word, ())] for word, others in rivals.items()}


def _relations(groups: list[list[str]]) -> list[tuple[Words, list[str]]]:
    pairs = [(tuple(first.split()), rivals) for first, *rivals in groups]
    pairs += [(tuple(rival.split()), [first]) for first, *rivals in groups for rival in rivals]
    relations: dict[Words, list[str]] = {}
    for phrase, rivals in pairs:
        relations.setdefault(phrase, rivals)
    return sorted(relations.items(), key=lambda item: -len(item[0]))


def _same_relations(content: dict[str, Any]) -> dict[str, list[tuple[Words, str]]]:
    """Return first word -> relations with the names of their meanings; the longest first."""
    names = {phrase: phrase for phrases in content["relations"] for phrase in phrases}
    names |= {phrase: phrases[0] for phrases in content["same_relations"] for phrase in phrases}
    by_first_word: dict[str, list[tuple[Words, str]]] = {}
    for phrase, name in sorted(names.items(), key=lambda item: -len(item[0].split())):
        by_first_word.setdefault(phrase.split()[0], []).append((tuple(phrase.split()), name))
    return by_first_word


def _members(content: dict[str, Any], key: str) -> frozenset[str]:
    """Return all nouns of the noun groups that the list ``key`` names."""
    return frozenset(word for group in content[key] for meaning in content["nouns"][group] for word in meaning.split())


def _names(meaning: str) -> list[str]:
    return [meaning] if meaning in _COMPOUNDS else meaning.split()
