"""Type hints of constructors: which config values fit them, and their description in words.

Imports no torch.
"""

import inspect
import types
import typing
from typing import Annotated, Any, Literal, Union

from degla.bounds import Bound, refusal, type_hints

__all__ = ["describe", "fits", "type_hints"]

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    dict: "a group of keys",
    type(None): "null",
}


def fits(value: Any, hint: Any, check_bounds: bool = True) -> bool:
    """Return whether a plain config value can be an argument of this type; True where that cannot be decided.

    Args:
        value: what ``OmegaConf.to_container`` returns for one key.
        hint: the resolved type of the parameter.
        check_bounds: whether a value out of the bounds of its hint does not fit.
    """
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return fits(value, parts[0], check_bounds) and not (check_bounds and refusal(value, hint))
    if origin in (Union, types.UnionType):
        return any(fits(value, part, check_bounds) for part in parts)
    if origin is Literal:
        return value in parts
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(fits(item, parts[0], check_bounds) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if inspect.isclass(hint) and origin is None:
        return isinstance(value, hint)
    return True


def describe(hint: Any) -> str:
    """Return a type in words, such as "a whole number or null", or its bounds where it declares them."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        bounds = [part.words for part in parts[1:] if isinstance(part, Bound)]
        return " and ".join(bounds) or describe(parts[0])
    if origin in (Union, types.UnionType):
        has_bounds = any(typing.get_origin(part) is Annotated for part in parts)
        return (", or " if has_bounds else " or ").join(dict.fromkeys(describe(part) for part in parts))
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin in (list, tuple):
        return f"a list of {describe(parts[0])}"
    return _WORDS.get(hint, str(getattr(hint, "__name__", hint)))
