"""The choice of the negatives of a sample that a step uses."""

import random
from collections.abc import Callable, Sequence

from degla.data.schema import NEGATIVE_TYPES, Negative

Slots = list[Negative | None]  # K entries; None is an empty slot


def first(negatives: Sequence[Negative | None], slots: int, rng: random.Random) -> Slots:
    """Return the first K negatives, as the released code does.

    Args:
        negatives: of one sample, in the order of the file; None leaves its slot empty.
        slots: K.
        rng: not used.
    """
    return _padded(negatives[:slots], slots)


def random_k(negatives: list[Negative], slots: int, rng: random.Random) -> Slots:
    """Return K random negatives without repetition, in the order of the file.

    Args:
        negatives: of one sample, in the order of the file.
        slots: K.
        rng: draws the negatives.
    """
    chosen = sorted(rng.sample(range(len(negatives)), min(slots, len(negatives))))
    return _padded([negatives[i] for i in chosen], slots)


def one_per_type(negatives: list[Negative], slots: int, rng: random.Random) -> Slots:
    """Return one negative of each type: the paper's types in the paper's order, then other types by name.

    With fewer slots than types, K random types are used. With at least five slots and no other types than the
    paper's, slot k always holds type k; CE-CLIP's thresholds, one per slot, need that.

    Args:
        negatives: of one sample, in the order of the file.
        slots: K.
        rng: draws among the negatives of a type, and among types.
    """
    by_type: dict[str, list[Negative]] = {}
    for negative in negatives:
        by_type.setdefault(negative.type, []).append(negative)
    picked = {name: rng.choice(members) for name, members in sorted(by_type.items(), key=lambda item: _rank(item[0]))}
    if slots >= len(NEGATIVE_TYPES) and set(by_type) <= set(NEGATIVE_TYPES):
        return _padded([picked.get(name) for name in NEGATIVE_TYPES], slots)
    kept = sorted(rng.sample(range(len(picked)), min(slots, len(picked))))
    values = list(picked.values())
    return _padded([values[i] for i in kept], slots)


# Value of loader.negatives -> function of the negatives that can be used.
SELECTIONS: dict[str, Callable[[list[Negative], int, random.Random], Slots]] = {
    "first": first,
    "random": random_k,
    "one_per_type": one_per_type,
}

IN_PLACE = "in_place"  # value of loader.negatives: entry k fills slot k, and one that cannot be used leaves it empty


def _rank(name: str) -> tuple[int, str]:
    return (NEGATIVE_TYPES.index(name) if name in NEGATIVE_TYPES else len(NEGATIVE_TYPES), name)


def _padded(negatives: Sequence[Negative | None], slots: int) -> Slots:
    return [*negatives, *[None] * (slots - len(negatives))]
