"""From a config node to the object that it describes, with every key checked first. Imports no torch.

A node names a constructor in ``_target_``; its other keys are that constructor's arguments.
"""

import difflib
import functools
import inspect
import logging
import types
import typing
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Union

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from degla.errors import ConfigError, DeglaError

log = logging.getLogger(__name__)

# A config is data and must not be able to call anything else. The second tuple is where the object must be
# defined: `degla.training.build.os.system` begins with an allowed prefix but is not ours.
_ALLOWED_TARGETS = ("degla.", "lightning.Trainer", "lightning.pytorch.")
_ALLOWED_MODULES = ("degla.", "lightning.pytorch.")

# Targets that were renamed. The configs of earlier runs name the old ones. A name that ends in a dot is a prefix.
MOVED_TARGETS = {
    "degla.callbacks.": "degla.training.callbacks.",
    "degla.optim.": "degla.training.optim.",
    "degla.data.DataModule": "degla.data.datamodule.DataModule",
    "degla.hard_negatives.live.ModelWriter": "degla.hard_negatives.llm.online.ModelWriter",
    "degla.hard_negatives.batch.BatchWriter": "degla.hard_negatives.llm.batch.BatchWriter",
}


def instantiate(node: DictConfig, key: str, **arguments: Any) -> Any:
    """Call the ``_target_`` of a config node with its other keys.

    Args:
        node: a group of the config.
        key: the name of the group, for messages.
        arguments: objects that a config cannot hold. They take precedence over the node's keys.

    Raises:
        ConfigError: the target is not allowed, a key is unknown or of the wrong type, or a library's constructor
            refuses a value. An exception that our own constructors did not mean for the user is passed on as it is.
    """
    target, settings = check_node(node, key)
    try:
        return target(**{**settings, **arguments})
    except DeglaError:
        raise
    except Exception as error:
        if not _is_foreign(target) or not _is_refusal(error):
            raise
        raise ConfigError(f"{key}: {error}") from error


def instantiate_partial(node: DictConfig, key: str, **arguments: Any) -> Callable:
    """Bind the settings of a config node to its ``_target_``; the caller adds the remaining argument.

    Args:
        node: a group of the config.
        key: the name of the group, for messages.
        arguments: objects that a config cannot hold.

    Raises:
        ConfigError: the target is not allowed, or a key is unknown or of the wrong type.
    """
    target, settings = check_node(node, key)
    return partial(target, **settings, **arguments)


def instantiate_each(group: DictConfig, key: str) -> dict[str, Any]:
    """Instantiate every node of a group of named nodes, each with its name as the argument ``name``.

    Args:
        group: name -> node, such as the group ``benchmark``.
        key: the name of the group, for messages.

    Raises:
        ConfigError: see ``instantiate``.
    """
    return {name: instantiate(node, f"{key}.{name}", name=name) for name, node in group.items()}


def check_node(node: DictConfig, key: str) -> tuple[Callable, dict[str, Any]]:
    """Return the constructor that a config node names and its settings, without calling it.

    Args:
        node: a group of the config.
        key: the name of the group, for messages.

    Raises:
        ConfigError: the target is not allowed, or a key is unknown or of the wrong type.
    """
    settings = OmegaConf.to_container(node, resolve=True)
    path = settings.pop("_target_", None)
    if isinstance(path, str):
        path = current_target(path)
    if not isinstance(path, str) or not path.startswith(_ALLOWED_TARGETS):
        raise ConfigError(f"{key}._target_={path} is not allowed: it must begin with {' or '.join(_ALLOWED_TARGETS)}")
    try:
        target = get_object(path)
    except Exception as error:
        raise ConfigError(f"{key}._target_={path} does not exist") from error
    if not f"{getattr(target, '__module__', None)}.".startswith(_ALLOWED_MODULES):
        raise ConfigError(
            f"{key}._target_={path} is not allowed: it must be defined in {' or '.join(_ALLOWED_MODULES)}"
        )
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    parameters = inspect.signature(target).parameters
    takes_any_key = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for name, value in settings.items():
        if name not in parameters and not takes_any_key:
            close = difflib.get_close_matches(name, parameters, n=1)
            hint = f"did you mean {key}.{close[0]}?" if close else f"it takes {', '.join(parameters)}"
            raise ConfigError(f"there is no config key '{key}.{name}': {hint}")
        if name in hints and not _fits(value, hints[name]):
            raise ConfigError(f"{key}.{name}={value!r} must be {_describe(hints[name])}")
    return target, settings


def current_target(path: str) -> str:
    """Return today's name of a ``_target_``, and warn once where the name given is an earlier one."""
    for old, new in MOVED_TARGETS.items():
        if path == old or (old.endswith(".") and path.startswith(old)):
            renamed = new + path.removeprefix(old)
            _warn_once(path, renamed)
            return renamed
    return path


def with_current_targets(settings: Any) -> Any:
    """Return a copy of nested plain settings in which every ``_target_`` has today's name."""
    if isinstance(settings, dict):
        return {
            name: current_target(value)
            if name == "_target_" and isinstance(value, str)
            else with_current_targets(value)
            for name, value in settings.items()
        }
    return [with_current_targets(item) for item in settings] if isinstance(settings, list) else settings


@functools.cache
def _warn_once(old: str, new: str) -> None:
    log.warning(f"_target_: {old} is now {new}; the old name still works")


def _is_foreign(target: Callable) -> bool:
    return not f"{target.__module__}.".startswith("degla.")


def _is_refusal(error: Exception) -> bool:
    # Lightning's class is known by its name only, because importing it would import torch.
    return isinstance(error, TypeError | ValueError) or type(error).__name__ == "MisconfigurationException"


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain config value can be an argument of this type. True where that cannot be decided."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(_fits(item, parts[0]) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, dict, type(None)):
        return isinstance(value, hint)
    if inspect.isclass(hint) and origin is None:
        return isinstance(value, hint)
    return True


def _describe(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_describe(part) for part in parts))
    if origin is Literal:
        return " or ".join(map(str, parts))
    names = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
        type(None): "null",
    }
    return names.get(hint) or (f"a list of {_describe(parts[0])}" if origin in (list, tuple) else str(hint))
