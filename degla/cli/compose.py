"""Compose the config of a program from Python values, without a command line.

Imports no torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from degla.cli.bounds import check_bounds
from degla.cli.main import config_dir, run_folder  # registers the resolvers of the configs
from degla.cli.messages import sentence
from degla.errors import ConfigError
from degla.objective_terms import is_short_key, write_out_terms

_PACKAGES = {"val_data": "data@val_data"}  # a key that chooses from the folder of another one


def compose_config(config_name: str, values: Mapping[str, Any]) -> DictConfig:
    """Return the config that a program would get, with ``run_dir`` set.

    Args:
        config_name: the root config, such as ``train``.
        values: by key. ``{"objective": "clip"}`` chooses an option of a group; ``{"optimizer": {"lr": 1e-5}}`` and
            ``{"optimizer.lr": 1e-5}`` set a key; ``{"model": {"option": "vit_b_16", "pretrained": None}}`` does both.

    Raises:
        ConfigError: a key, an option or a value does not exist or is out of bounds.
    """
    options, settings = _split(values)
    overrides = [f"{_PACKAGES.get(group, group)}={_as_option(option)}" for group, option in options.items()]
    try:
        with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
            cfg = hydra.compose(config_name, overrides)
        for key, value in settings.items():
            is_term = is_short_key(key) or key.startswith("objective.terms.")  # a term may be added
            OmegaConf.update(cfg, key, value, force_add=is_term)
        write_out_terms(cfg)
        if "run_dir" in cfg and "run_dir" not in settings:
            # The configs take it from Hydra's runtime, which only exists while Hydra runs a program.
            cfg.run_dir = run_folder(cfg.runs_dir, cfg.get("name", config_name), cfg.get("ckpt_path"))
        check_bounds(cfg, config_name)
        OmegaConf.resolve(cfg)
    except (HydraException, OmegaConfBaseException) as error:
        arguments = [f"{key}={value}" for key, value in {**options, **settings}.items()]
        raise ConfigError(sentence(error, config_name, arguments)) from error
    return cfg


def _split(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split values into options of groups and settings of keys."""
    options: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            rest = {str(name): item for name, item in value.items()}
            if _is_group(key) and "option" in rest:
                options[key] = rest.pop("option")
            settings |= {f"{key}.{name}": item for name, item in _flat(rest).items()}
        elif _is_group(key):
            options[key] = value
        else:
            settings[key] = _plain(value)
    return options, settings


def _is_group(key: str) -> bool:
    return Path(config_dir(), _PACKAGES.get(key, key).partition("@")[0]).is_dir()


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{key}.{name}": item for name, item in _flat(value).items()}
        else:
            flat[str(key)] = _plain(value)
    return flat


def _plain(value: Any) -> Any:
    """Return a value as a config can hold it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    return value


def _as_option(option: Any) -> str:
    if option is None:
        return "null"
    return f"[{','.join(map(str, option))}]" if isinstance(option, list | tuple) else str(option)
