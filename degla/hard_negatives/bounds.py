"""Checks of settings: the message names the key, the value and the range."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from degla.errors import ConfigError
from degla.hard_negatives.kinds import KINDS

MAX_PER_KIND = 64  # negatives of one kind, and texts that are read from one answer


class _Bound(NamedTuple):
    allows: Callable[[Any], bool]
    words: str  # completes "<key>=<value> must be"


def check_number(key: str, value: float, minimum: float, maximum: float = math.inf, exclusive: bool = False) -> None:
    """Check a number against its range.

    Args:
        key: the config key, for the message.
        value: the number.
        minimum: smallest value.
        maximum: largest value. Infinity itself is never allowed.
        exclusive: whether ``minimum`` itself is not allowed.

    Raises:
        ConfigError: the number is outside of the range.
    """
    is_large_enough = value > minimum if exclusive else value >= minimum
    if not math.isfinite(value) or not is_large_enough or value > maximum:
        lower = f"more than {minimum:g}" if exclusive else f"{minimum:g} or more"
        words = lower if math.isinf(maximum) else f"from {minimum:g} to {maximum:g}"
        raise ConfigError(f"{key}={value} must be {words}")


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check the top-level keys of ``configs/negatives.yaml``.

    Args:
        settings: key -> plain value.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """
    for key, bound in _BOUNDS.items():
        value = settings[key]
        if not bound.allows(value):
            raise ConfigError(f"{key}={value!r} must be {bound.words}")
    kinds = settings["kinds"]
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ConfigError(f"kinds: there is no kind {unknown[0]}; choose among {', '.join(KINDS)}")
    if len(set(kinds)) < len(kinds):
        raise ConfigError(f"kinds={kinds} names a kind twice; name each once")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_text_or_null(value: Any) -> bool:
    return value is None or _is_text(value)


def _is_whole(value: Any, minimum: int, maximum: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum


def _are_prices(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) == 2 and all(map(_is_price, value))


def _is_price(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


_BOUNDS = {
    "input": _Bound(_is_text_or_null, "a file of captions"),
    "caption": _Bound(_is_text, "the name of a column"),
    "image": _Bound(_is_text, "the name of a column"),
    "output": _Bound(_is_text_or_null, "a folder, or null for the name of the input with _negatives"),
    "kinds": _Bound(lambda value: isinstance(value, list) and bool(value), "a list of at least one kind"),
    "per_kind": _Bound(lambda value: _is_whole(value, 1, MAX_PER_KIND), f"a whole number from 1 to {MAX_PER_KIND}"),
    "balance": _Bound(lambda value: isinstance(value, bool), "true or false"),
    "draft": _Bound(lambda value: value is None or _is_whole(value, 1), "a number of captions of 1 or more, or null"),
    "prices": _Bound(_are_prices, "two numbers of 0 or more: dollars per million input and output tokens"),
    "seed": _Bound(lambda value: _is_whole(value, 0, 2**32 - 1), "a whole number from 0 to 4294967295"),
}
