"""Bounds of settings, declared in the hints of constructors.

A constructor declares ``epochs: Annotated[int, whole(1)]``. The programs check a config against the hints, and show
them under ``--options`` and in ``docs/options.md``. ``bounded`` checks a call from Python in the same way.

Imports no torch.
"""

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, ParamSpec, TypeVar, Union

from degla.errors import ConfigError

_P = ParamSpec("_P")
_Result = TypeVar("_Result")


class Bound(NamedTuple):
    """The values that a setting may have."""

    allows: Callable[[Any], bool]
    words: str  # completes "<key>=<value> must be"


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def whole(minimum: int, maximum: float = math.inf) -> Bound:
    """Return the bound of whole numbers.

    Args:
        minimum: smallest value.
        maximum: largest value.
    """
    extent = f"of {minimum} or more" if math.isinf(maximum) else f"from {minimum} to {maximum}"
    return Bound(lambda value: is_whole(value) and minimum <= value <= maximum, f"a whole number {extent}")


def number(minimum: float) -> Bound:
    """Return the bound of finite numbers that are not below ``minimum``."""
    return Bound(lambda value: is_number(value) and value >= minimum, f"a number of {minimum:g} or more")


def above(minimum: float) -> Bound:
    """Return the bound of finite numbers above ``minimum``."""
    return Bound(lambda value: is_number(value) and value > minimum, f"a number above {minimum:g}")


def share(below_one: bool = False) -> Bound:
    """Return the bound of shares: numbers from 0 to 1.

    Args:
        below_one: whether 1 itself is not allowed.
    """
    words = "a number of 0 or more and less than 1" if below_one else "a number from 0 to 1"
    return Bound(lambda value: is_number(value) and 0 <= value <= 1 and not (below_one and value == 1), words)


def one_of(names: tuple[str, ...]) -> Bound:
    """Return the bound of a name that is one of ``names``."""
    return Bound(lambda value: value in names, f"one of {', '.join(names)}")


def some_of(names: tuple[str, ...]) -> Bound:
    """Return the bound of a list of ``names`` that is not empty."""
    return Bound(
        lambda value: isinstance(value, list | tuple) and len(value) > 0 and all(name in names for name in value),
        f"a list of some of {', '.join(names)}",
    )


SEED = whole(0, 2**32 - 1)


def bounded(group: str) -> Callable[[Callable[_P, _Result]], Callable[_P, _Result]]:
    """Return a decorator that checks the arguments of a call against the bounds in their hints.

    It is for the ``__init__`` of a class, or for a function that returns an object.

    Args:
        group: config group of the constructor, such as ``loader``, for messages.

    Raises:
        ConfigError: by the decorated function: an argument is out of its bound. The message names key, value and bound.
    """

    def decorate(function: Callable[_P, _Result]) -> Callable[_P, _Result]:
        @functools.wraps(function)
        def checked(*args: _P.args, **kwargs: _P.kwargs) -> _Result:
            _check_arguments(group, function, args, kwargs)
            return function(*args, **kwargs)

        return checked

    return decorate


def _check_arguments(group: str, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    try:
        arguments = inspect.signature(function).bind(*args, **kwargs).arguments
    except TypeError:  # the call itself will say what is missing or unknown
        return
    for name, hint in type_hints(function).items():
        if name in arguments and (words := refusal(arguments[name], hint)):
            raise ConfigError(f"{group}.{name}={arguments[name]} must be {words}")


def refusal(value: Any, hint: Any) -> str:
    """Return the values that a hint allows, in words, if ``value`` is out of its bounds, else "".

    Args:
        value: an argument.
        hint: the resolved type of the parameter, with its bounds.
    """
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        refused = [bound.words for bound in parts[1:] if isinstance(bound, Bound) and not bound.allows(value)]
        return refused[0] if refused else ""
    if origin in (Union, types.UnionType) and value is not None:
        reasons = [refusal(value, part) for part in parts if part is not type(None)]
        null = ", or null" if type(None) in parts else ""
        return f"{' or '.join(reasons)}{null}" if all(reasons) else ""
    return ""


def type_hints(constructor: Callable[..., Any]) -> dict[str, Any]:
    """Return name -> type for each parameter whose annotation can be resolved.

    ``typing.get_type_hints`` fails for the whole signature if one name in it is imported under ``TYPE_CHECKING``
    only, as in Lightning's ``WandbLogger``. So each annotation is resolved on its own.

    Args:
        constructor: a class, or a function that returns an object.
    """
    function = inspect.unwrap(constructor.__init__ if inspect.isclass(constructor) else constructor)
    namespace = getattr(function, "__globals__", {})
    hints: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            hints |= typing.get_type_hints(holder, globalns=namespace, localns={}, include_extras=True)
        except Exception:  # a name that exists for type checkers only; the constructor itself checks this value
            continue
    return hints
