"""The config keys and options of a program, for hints and ``--help``.

Imports no torch.
"""

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, ListConfig, OmegaConf

from degla.cli.paths import config_dir

# Groups that a program's defaults do not list, because they are added with "+".
_ADDED_GROUPS = {"train": ("sweep",)}


def groups_of(program: str) -> list[str]:
    """Return the config groups that a program reads, in the order of its defaults."""
    text = (Path(config_dir()) / f"{program}.yaml").read_text(encoding="utf-8")
    names: list[str] = []
    for entry in yaml.safe_load(text)["defaults"]:
        for key in entry if isinstance(entry, dict) else ():
            name = key.split()[-1].partition("@")[0].strip("/")  # "override /group@package" and the like
            if (Path(config_dir()) / name).is_dir() and name not in names:
                names.append(name)
    return [*names, *_ADDED_GROUPS.get(program, ())]


def options_of(group: str) -> list[str]:
    """Return the names of a group's options; those in folders below it have the folder in front."""
    folder = Path(config_dir()) / group
    return sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml"))


def help_of_groups(program: str) -> str:
    """Return the groups of a program with their options, one line per group."""
    groups = groups_of(program)
    width = max(map(len, groups), default=0)
    return "\n".join(f"{group:<{width}}  {', '.join(options_of(group))}" for group in groups)


def root_keys(program: str) -> set[str]:
    """Return the keys at the top of a program's config, groups included."""
    root = OmegaConf.load(Path(config_dir()) / f"{program}.yaml")
    return {str(key) for key in root} | set(groups_of(program))


def composed_keys(program: str, arguments: Sequence[str]) -> list[str]:
    """Return all keys of the config that a program composes with the options chosen on its command line.

    Args:
        program: name of its root config.
        arguments: the command line; only the choices of options in it count, because other settings may be wrong.
    """
    for overrides in ([*_search_path(arguments), *_choices(arguments)], []):
        try:
            with initialize_config_dir(config_dir(), version_base="1.3"):
                return _flat_keys(compose(program, overrides=overrides))
        except Exception:  # such a choice may be the cause of the error; then the defaults are used
            continue
    return []


def keys_of_options(key: str, program: str) -> list[str]:
    """Return the options of the key's group whose files hold the key.

    Args:
        key: with the group in front, such as ``data.num_scenes``.
        program: whose groups are searched.
    """
    group = key.partition(".")[0]
    if group not in groups_of(program) or "." not in key:
        return []
    return [option for option in options_of(group) if key in _keys_of_file(group, option)]


def normalized(name: str) -> str:
    """Return a name without case and punctuation: ``ViT-B-32`` and ``vit_b_32`` become equal."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@functools.cache
def _keys_of_file(group: str, option: str) -> frozenset[str]:
    config = OmegaConf.load(Path(config_dir()) / group / f"{option}.yaml")
    return frozenset(f"{group}.{key}" for key in _flat_keys(config))


def _choices(arguments: Sequence[str]) -> list[str]:
    names = (argument.partition("=")[0].lstrip("+").partition("@")[0] for argument in arguments)
    folder = Path(config_dir())
    return [argument for argument, name in zip(arguments, names, strict=True) if name and (folder / name).is_dir()]


def _search_path(arguments: Sequence[str]) -> list[str]:
    for flag in ("--config-dir", "-cd"):
        if flag in arguments[:-1]:
            folder = Path(arguments[list(arguments).index(flag) + 1]).absolute()
            return [f"hydra.searchpath=['file://{folder}']"]
    return []


def _flat_keys(config: DictConfig | ListConfig) -> list[str]:
    # Without resolving: a file alone lacks what its interpolations name.
    return _keys_of(OmegaConf.to_container(config, resolve=False), "")


def _keys_of(settings: Any, prefix: str) -> list[str]:
    if not isinstance(settings, dict):
        return []
    keys = []
    for key, value in settings.items():
        keys += [f"{prefix}{key}", *_keys_of(value, f"{prefix}{key}.")]
    return keys
