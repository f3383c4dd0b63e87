"""Type hints of constructors: which config values fit them, and their description in words.

Imports no torch.
"""

import inspect
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    dict: "a group of keys",
    type(None): "null",
}


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


def fits(value: Any, hint: Any) -> bool:
    """Return whether a plain config value can be an argument of this type; True where that cannot be decided.

    Args:
        value: what ``OmegaConf.to_container`` returns for one key.
        hint: the resolved type of the parameter.
    """
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return fits(value, parts[0])
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(fits(item, parts[0]) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if inspect.isclass(hint) and origin is None:
        return isinstance(value, hint)
    return True


def describe(hint: Any) -> str:
    """Return a type in words, such as "a whole number or null"."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return describe(parts[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(part) for part in parts))
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin in (list, tuple):
        return f"a list of {describe(parts[0])}"
    return _WORDS.get(hint, str(getattr(hint, "__name__", hint)))
