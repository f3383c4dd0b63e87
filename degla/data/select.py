"""Which of a row's negatives a step uses."""

import random
from collections.abc import Callable

from degla.data.schema import NEGATIVE_TYPES, Negative

Slots = list[Negative | None]  # K entries; None is an empty slot


def first(negatives: list[Negative], slots: int, rng: random.Random) -> Slots:
    """The first K, as the released code takes them."""
    return _padded(negatives[:slots], slots)


def random_k(negatives: list[Negative], slots: int, rng: random.Random) -> Slots:
    """K at random, without repetition, in the order of the file."""
    chosen = sorted(rng.sample(range(len(negatives)), min(slots, len(negatives))))
    return _padded([negatives[i] for i in chosen], slots)


def one_per_type(negatives: list[Negative], slots: int, rng: random.Random) -> Slots:
    """One of each kind, in the paper's order of kinds, further kinds behind.

    With fewer slots than kinds, random K of the kinds. With at least five slots and no kind but the
    paper's, slot k always holds kind k, which is what CE-CLIP's thresholds expect.
    """
    kinds: dict[str, list[Negative]] = {}
    for negative in negatives:
        kinds.setdefault(negative.type, []).append(negative)
    picked = {kind: rng.choice(members) for kind, members in sorted(kinds.items(), key=lambda item: _rank(item[0]))}
    if slots >= len(NEGATIVE_TYPES) and set(kinds) <= set(NEGATIVE_TYPES):
        return _padded([picked.get(kind) for kind in NEGATIVE_TYPES], slots)
    kept = sorted(rng.sample(range(len(picked)), min(slots, len(picked))))
    values = list(picked.values())
    return _padded([values[i] for i in kept], slots)


SELECTIONS: dict[str, Callable[[list[Negative], int, random.Random], Slots]] = {
    "first": first,
    "random": random_k,
    "one_per_type": one_per_type,
}


def _rank(kind: str) -> tuple[int, str]:
    return (NEGATIVE_TYPES.index(kind) if kind in NEGATIVE_TYPES else len(NEGATIVE_TYPES), kind)


def _padded(negatives: list[Negative | None], slots: int) -> Slots:
    return [*negatives, *[None] * (slots - len(negatives))]
