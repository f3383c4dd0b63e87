"""Create the object that a config node describes, after checking every key.

Imports no torch.

A node names a constructor in ``_target_``. Its other keys are that constructor's arguments.
"""

import difflib
import functools
import inspect
import logging
import re
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from degla.cli.hints import describe, fits, type_hints
from degla.cli.targets import find_target
from degla.errors import ConfigError, DeglaError, MissingDependencyError
from degla.objective_terms import compared_objective, is_objective

log = logging.getLogger(__name__)

# Old path -> new path of each constructor that has moved. Configs of earlier runs hold the old paths. A path that
# ends in a dot is a prefix.
MOVED_TARGETS = {
    "degla.callbacks.": "degla.training.callbacks.",
    "degla.optim.": "degla.training.optim.",
    "degla.data.DataModule": "degla.data.datamodule.DataModule",
    "degla.hard_negatives.live.ModelWriter": "degla.hard_negatives.llm.online.OnlineWriter",
    "degla.hard_negatives.llm.online.ModelWriter": "degla.hard_negatives.llm.online.OnlineWriter",
    "degla.hard_negatives.pipeline.GivenNegatives": "degla.hard_negatives.writers.GivenNegatives",
    "degla.hard_negatives.batch.BatchWriter": "degla.hard_negatives.llm.batch.BatchWriter",
}


def instantiate(node: DictConfig, key: str, **arguments: Any) -> Any:
    """Call the ``_target_`` of a config node with its other keys.

    Args:
        node: a group of the config.
        key: the name of the group, for messages.
        arguments: objects that a config cannot hold. They take precedence over the node's keys.

    Raises:
        ConfigError: the target is not allowed, a key is unknown or of the wrong type, or Lightning's constructor
            refuses a value.
        MissingDependencyError: Lightning's constructor needs a package that is not installed.
    """
    target, settings = check_node(node, key)
    try:
        return target(**{**settings, **arguments})
    except DeglaError:
        raise
    except Exception as error:
        if not f"{target.__module__}.".startswith("lightning."):
            raise  # of our own code, or the user's: a bug keeps its traceback
        if isinstance(error, ModuleNotFoundError):
            raise MissingDependencyError(_missing_package(error, key, target)) from error
        if not _is_refusal(error):
            raise
        raise ConfigError(f"{key}: {_plain_refusal(error)}") from error


def instantiate_partial(node: DictConfig, key: str, **arguments: Any) -> Callable[..., Any]:
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
    """Instantiate every chosen node of a group of named nodes, each with its name as the argument ``name``.

    Args:
        group: name -> node, such as the group ``benchmark``.
        key: the name of the group, for messages.

    Raises:
        ConfigError: see ``instantiate``.
    """
    return {name: instantiate(node, f"{key}.{name}", name=name) for name, node in chosen_nodes(group).items()}


def chosen_nodes(group: DictConfig | None) -> dict[str, DictConfig]:
    """Return the nodes of a group that name a ``_target_``.

    A node is null where the user has left it out. It is without ``_target_`` where an experiment sets keys of an
    option that the command line has replaced, as in ``experiment=demo benchmark=none``.

    Args:
        group: name -> node, such as the group ``benchmark``, or None.
    """
    return {str(name): node for name, node in (group or {}).items() if node and node.get("_target_") is not None}


def check_node(node: DictConfig, key: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return the constructor that a config node names and its settings, without calling it.

    Args:
        node: a group of the config.
        key: the name of the group, for messages.

    Raises:
        ConfigError: the target is not allowed, or a key is unknown or of the wrong type.
    """
    settings = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
    path = settings.pop("_target_", None)
    if isinstance(path, str):
        path = current_target(path)
    target = find_target(path, key)
    hints = type_hints(target)
    parameters = inspect.signature(target).parameters
    takes_any_key = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for name, value in settings.items():
        if name not in parameters and not takes_any_key:
            close = difflib.get_close_matches(name, parameters, n=1)
            hint = f"did you mean {key}.{close[0]}?" if close else f"it takes {', '.join(parameters)}"
            raise ConfigError(f"there is no config key '{key}.{name}': {hint}")
        if name in hints and not fits(value, hints[name]):
            shown = value if fits(value, hints[name], check_bounds=False) else repr(value)  # a text in quotes
            raise ConfigError(f"{key}.{name}={shown} must be {describe(hints[name])}")
    return target, settings


def current_target(path: str) -> str:
    """Return the current path of a ``_target_``; warn once for each entry of ``MOVED_TARGETS`` that applies."""
    for old, new in MOVED_TARGETS.items():
        if path == old or (old.endswith(".") and path.startswith(old)):
            _warn_once(old, new)
            return current_target(new + path.removeprefix(old))
    return path


def with_current_targets(settings: Any) -> Any:
    """Return a copy of nested plain settings in which every ``_target_`` has its current path.

    An objective of an earlier release gets the terms that it has now.
    """
    if isinstance(settings, dict):
        if is_objective(settings.get("_target_")):
            settings = compared_objective(settings)
        current = {name: with_current_targets(value) for name, value in settings.items()}
        if isinstance(path := settings.get("_target_"), str):
            current["_target_"] = current_target(path)
        return current
    return [with_current_targets(item) for item in settings] if isinstance(settings, list) else settings


@functools.cache
def _warn_once(old: str, new: str) -> None:
    log.warning(f"_target_: {old.rstrip('.')} has moved to {new.rstrip('.')}; the old path still works")


def _is_refusal(error: Exception) -> bool:
    # Lightning's class is known by its name only, because importing it would import torch.
    return isinstance(error, TypeError | ValueError) or type(error).__name__ == "MisconfigurationException"


def _plain_refusal(error: Exception) -> str:
    message = " ".join(str(error).split())
    if "gpu backend" in message or "can not run on your system" in message:
        return "this machine has no such accelerator: set trainer.accelerator=cpu, or auto to choose one"
    return message


def _missing_package(error: ModuleNotFoundError, key: str, target: Callable[..., Any]) -> str:
    named = re.search(r"pip install (?:-U )?['\"]?([\w.-]+)", str(error)) or re.search(r"'([\w-]+)", str(error))
    package = error.name or (named.group(1) if named else str(error))
    return f"{key}: {target.__name__} needs the package {package}: pip install {package}"
