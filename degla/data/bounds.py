"""Bounds of the values of data settings.

Imports no torch, so that settings are checked before anything is loaded. A constructor calls ``check_settings`` with
its own table, and so do programs with the tables of constructors that are called later.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from degla.errors import ConfigError


class Bound(NamedTuple):
    """The values that a key may have."""

    allows: Callable[[Any], bool]
    words: str  # completes "<key>=<value> must be"


def check_settings(group: str, bounds: Mapping[str, Bound], settings: Mapping[str, Any]) -> None:
    """Check the settings that a table bounds; other settings are ignored.

    Args:
        group: config group, such as ``loader``, for the message.
        bounds: key -> its bound.
        settings: key -> plain value.

    Raises:
        ConfigError: a value is of the wrong type or out of range. The message names key, value and range.
    """
    for key, bound in bounds.items():
        if key in settings and not bound.allows(settings[key]):
            raise ConfigError(f"{group}.{key}={settings[key]} must be {bound.words}")


def whole(minimum: int, maximum: float = math.inf) -> Bound:
    """Return the bound of whole numbers.

    Args:
        minimum: smallest value.
        maximum: largest value.
    """
    words = f"a whole number of {minimum} or more" if math.isinf(maximum) else f"from {minimum} to {maximum}"
    return Bound(lambda value: _is_whole(value) and minimum <= value <= maximum, words)


def share(below_one: bool = False) -> Bound:
    """Return the bound of shares: numbers from 0 to 1.

    Args:
        below_one: whether 1 itself is not allowed.
    """
    words = "0 or more and less than 1" if below_one else "from 0 to 1"
    return Bound(lambda value: _is_number(value) and 0 <= value <= 1 and not (below_one and value == 1), words)


def one_of(names: tuple[str, ...]) -> Bound:
    """Return the bound of a name that is one of ``names``."""
    return Bound(lambda value: value in names, f"one of {', '.join(names)}")


def optional(bound: Bound) -> Bound:
    """Return a bound that also allows null."""
    return Bound(lambda value: value is None or bound.allows(value), f"{bound.words}, or null")


def some_of(names: tuple[str, ...]) -> Bound:
    """Return the bound of a list of ``names`` that is not empty."""
    return Bound(
        lambda value: isinstance(value, list | tuple) and len(value) > 0 and set(value) <= set(names),
        f"a list of some of {', '.join(names)}",
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_crop_scale(value: Any) -> bool:
    is_pair = isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value))
    return is_pair and 0 < value[0] <= value[1] <= 1


SEED = whole(0, 2**32 - 1)

LOADER = {
    "global_batch_size": whole(1),
    "epochs": whole(1),
    "num_negatives": whole(0),
    "negatives": one_of(("first", "random", "one_per_type", "in_place")),
    "num_units": whole(1),
    "crop_scale": Bound(_is_crop_scale, "two shares of the area, more than 0 and at most 1, the smaller one first"),
    "val_fraction": share(below_one=True),
    "max_val_rows": whole(1),
    "val_batch_size": whole(1),
    "max_image_pixels": whole(1, 178_956_970),  # Pillow refuses larger ones
    "max_image_aspect": Bound(lambda value: _is_number(value) and value >= 1, "a number of 1 or more"),
    "max_bad_fraction": share(),
    "chunk_size": optional(whole(1)),
    "num_workers": whole(0),
    "seed": SEED,
}
