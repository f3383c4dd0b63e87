"""Hydra's and OmegaConf's errors as one sentence that says what to write instead.

Imports no torch.
"""

import difflib
import re
from pathlib import Path

from hydra.errors import OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf

from degla.cli.paths import config_dir

# Keys of other projects -> the key that holds the same setting here.
_KEYS_ELSEWHERE = {
    "trainer.max_epochs": "loader.epochs",
    "trainer.precision": "precision",
    "trainer.strategy": "strategy",
    "data.batch_size": "loader.global_batch_size",
    "data.num_workers": "loader.num_workers",
    "loader.batch_size": "loader.global_batch_size",
    "model.lr": "optimizer.lr",
    "max_bad_fraction": "loader.max_bad_fraction",
    "lr": "optimizer.lr",
    "blind": "no_image_baseline",  # its name in degla-evaluate before 0.2
}


def sentence(error: Exception) -> str:
    """Return one line that says what is wrong and what to write instead.

    Args:
        error: an error of ours, of Hydra or of OmegaConf.
    """
    message = str(error).strip()
    if isinstance(error, OverrideParseException):
        reason = message.splitlines()[0]
        return f"'{error.override}' cannot be read as key=value (quote it for the shell and for Hydra): {reason}"
    if "Original Traceback" in message:  # raised in a DataLoader worker: the last line is our message
        message = message.splitlines()[-1].partition("Error: ")[2]
    override = re.search(r"Could not override '([^']+)'", message)
    if unknown := override or re.search(r"Key '([^']+)' is not in struct", message):
        return _unknown_key(unknown.group(1))
    option = re.search(r"Could not find '([^']+)'", message)
    if option and "Available options" in message:
        return _unknown_option(option.group(1), re.findall(r"^\t(\S+)$", message, re.MULTILINE))
    return " ".join(message.split())


def _unknown_key(key: str) -> str:
    keys = _all_keys()
    if key in keys:
        group = key.partition(".")[0]
        return f"there is no config key '{key}' with this {group}: choose the {group}=... that has it"
    close = [_KEYS_ELSEWHERE[key]] if key in _KEYS_ELSEWHERE else difflib.get_close_matches(key, keys, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "see --help or --cfg job for the keys there are"
    return f"there is no config key '{key}': {hint}"


def _unknown_option(path: str, options: list[str]) -> str:
    group, _, option = path.rpartition("/")
    close = difflib.get_close_matches(option, options, n=1)
    hint = f"did you mean {group}={close[0]}?" if close else f"choose one of {', '.join(options)}"
    return f"there is no {group}={option}: {hint}"


def _all_keys() -> list[str]:
    """List the keys of every config file, each with its group in front."""
    keys = []
    for file in Path(config_dir()).rglob("*.yaml"):
        relative = file.relative_to(config_dir())
        prefix = "" if relative.parent == Path() or relative.parts[0] == "experiment" else f"{relative.parts[0]}."
        keys += [prefix + key for key in _flat_keys(OmegaConf.load(file))]
    return sorted(set(keys))


def _flat_keys(config: DictConfig | ListConfig, prefix: str = "") -> list[str]:
    if not isinstance(config, DictConfig):
        return []
    keys = []
    for key in map(str, config):
        value = config._get_node(key)
        keys.append(f"{prefix}{key}")
        keys += _flat_keys(value, f"{prefix}{key}.") if isinstance(value, DictConfig) else []
    return keys
