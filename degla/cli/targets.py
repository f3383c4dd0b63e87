"""The constructors that a config may name in ``_target_``.

A config is data. It may come from somebody else, so it must not be able to call arbitrary code. Allowed are:

- the functions and classes that a config file of this package names;
- Lightning's Trainer, callbacks, loggers, strategies, plugins and profilers, by class;
- what the user lists in the environment variable ``DEGLA_TARGETS``.

Methods are never allowed: ``LightningModule.load_from_checkpoint`` runs pickles, others write files.
Imports no torch.
"""

import difflib
import functools
import importlib
import inspect
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from degla.cli.paths import config_dir
from degla.errors import ConfigError
from degla.objective_terms import TERMS

TARGETS_VARIABLE = "DEGLA_TARGETS"

_LIGHTNING_PREFIXES = (
    *("lightning.pytorch.callbacks.", "lightning.pytorch.loggers.", "lightning.pytorch.strategies."),
    *("lightning.pytorch.plugins.", "lightning.pytorch.profilers."),
)
_TRAINERS = ("lightning.Trainer", "lightning.pytorch.Trainer")
# Base classes by name, because importing them would import torch.
_LIGHTNING_BASES = {
    "lightning.pytorch.trainer.trainer.Trainer",
    "lightning.pytorch.callbacks.callback.Callback",
    "lightning.pytorch.loggers.logger.Logger",
    "lightning.pytorch.strategies.strategy.Strategy",
    "lightning.pytorch.plugins.precision.precision.Precision",
    "lightning.pytorch.plugins.layer_sync.LayerSync",
    "lightning.pytorch.profilers.profiler.Profiler",
    "lightning.fabric.plugins.environments.cluster_environment.ClusterEnvironment",
    "lightning.fabric.plugins.io.checkpoint_io.CheckpointIO",
}


def find_target(path: Any, key: str) -> Callable[..., Any]:
    """Return the constructor that a ``_target_`` names.

    Args:
        path: the value of ``_target_``.
        key: the group that holds it, for messages.

    Raises:
        ConfigError: the constructor is not allowed, or it cannot be imported.
    """
    if path is None:
        raise ConfigError(f"{key}=none leaves nothing to build: choose another {key}=..., see --help")
    if not isinstance(path, str) or (not (is_own := path in own_constructors()) and not _may_be_imported(path)):
        raise _refusal(path, key)
    try:
        target = _import(path)
    except Exception as error:
        reason = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{key}._target_={path} cannot be imported: {reason}") from error
    if not (is_own or _is_lightning_class(path, target) or _is_users(path, target)):
        raise _refusal(path, key)
    return target  # type: ignore[no-any-return]  # one of the checks above has accepted it


def _import(path: str) -> Any:
    """Import what a dotted path names; an attribute takes precedence over a module of the same name."""
    first, *names = path.split(".")
    found: Any = importlib.import_module(first)
    imported = first
    for name in names:
        imported = f"{imported}.{name}"
        try:
            found = getattr(found, name)
        except AttributeError:
            found = importlib.import_module(imported)
    return found


@functools.cache
def own_constructors() -> frozenset[str]:
    """Return every ``_target_`` that a config file of this package names or implies; files of the user do not count."""
    folder = Path(config_dir())
    files = [file for file in folder.rglob("*.yaml") if "local" not in file.relative_to(folder).parts]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    return frozenset(TERMS.values()) | frozenset(
        re.findall(r"^\s*_target_:\s*[\"']?(degla\.[\w.]+)", text, re.MULTILINE)
    )


def _users_entries() -> tuple[str, ...]:
    return tuple(entry.strip() for entry in os.environ.get(TARGETS_VARIABLE, "").split(",") if entry.strip())


def _may_be_imported(path: str) -> bool:
    """Return whether ``path`` may be looked up at all, because importing a module runs it."""
    if path in _TRAINERS or path.startswith(_LIGHTNING_PREFIXES):
        return True
    return any(path == entry or (entry.endswith(".") and path.startswith(entry)) for entry in _users_entries())


def _is_lightning_class(path: str, target: Any) -> bool:
    if not inspect.isclass(target) or not (path in _TRAINERS or path.startswith(_LIGHTNING_PREFIXES)):
        return False
    bases = {f"{base.__module__}.{base.__qualname__}" for base in inspect.getmro(target)}
    return f"{target.__module__}.".startswith("lightning.") and bool(bases & _LIGHTNING_BASES)


def _is_users(path: str, target: Any) -> bool:
    """Return whether the user has listed this class or function, and not merely a module that imports it."""
    if not (inspect.isclass(target) or inspect.isfunction(target)) or "." in target.__qualname__:
        return False
    return any(
        path == entry or (entry.endswith(".") and f"{target.__module__}.".startswith(entry))
        for entry in _users_entries()
    )


def _refusal(path: Any, key: str) -> ConfigError:
    close = difflib.get_close_matches(str(path), own_constructors(), n=1, cutoff=0.8)
    hint = f"did you mean {close[0]}?" if close else f"for code of your own set {TARGETS_VARIABLE} to its package"
    return ConfigError(
        f"{key}._target_={path} is not allowed: it is neither a constructor of this package's configs nor a class of "
        f"Lightning such as a logger or callback; {hint}"
    )
