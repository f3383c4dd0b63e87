"""The finished runs of a study, read from their folders: method, setting, seed, cost and weights."""

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from degla.artifacts import newest_checkpoint
from degla.errors import ConfigError
from degla.report.study_schema import Setting
from degla.report.study_settings import settings_of

log = logging.getLogger(__name__)

WEIGHTS = "model/open_clip_model.safetensors"  # what a run writes when it ends
_BASE_KEYS = ("name", "pretrained", "quick_gelu", "context_length")  # of the group ``model``


class FoundRun(NamedTuple):
    """A finished run on the disk."""

    folder: Path
    name: str  # the folder, relative to that of all runs
    method: str
    setting: Setting
    seed: int
    steps: int | None
    minutes: float | None  # of training
    weights: Path
    base: dict[str, Any]  # settings of the model that the run started from
    commit: str  # that it was trained at; "" where it is not known


def find_runs(folder: Path) -> list[FoundRun]:
    """Return the finished runs below a folder, in the order of their names.

    Runs that have not finished are left out with a warning.

    Args:
        folder: anywhere above the runs.

    Raises:
        ConfigError: a run cannot be read or has no weights, or two runs have equal method, setting and seed.
    """
    folders = sorted(path.parent for path in folder.rglob("finished.json"))
    unfinished = [path for path in _run_folders(folder) if path not in folders]
    if unfinished:
        log.warning(f"{len(unfinished)} runs have not finished and are left out, such as {unfinished[0]}")
    configs = {path: _read_config(path) for path in folders}
    settings = settings_of(configs)
    runs = []
    for path, config in configs.items():
        end = _read_end(path / "finished.json")
        runs.append(
            FoundRun(
                folder=path,
                name=str(path.relative_to(folder)),
                method=str(config["name"]),
                setting=settings[path],
                seed=config["seed"],
                steps=end.get("steps"),
                minutes=_minutes(end.get("seconds"), path / "config.yaml", path / "finished.json"),
                weights=_weights(path),
                base=_base_settings(config["model"]),
                commit=_commit(path),
            )
        )
    _refuse_repeats(runs)
    return runs


def base_of(runs: list[FoundRun], key: str, given: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings of the model that all runs started from, as arguments of ``load_clip``.

    Args:
        runs: at least one.
        key: the config key that names their folder, with its value, for messages.
        given: settings that the user chose in place of those that the runs record; differences are then a warning.

    Raises:
        ConfigError: the runs started from different models.
    """
    first = runs[0]
    for run in runs:
        for name in _BASE_KEYS:
            if run.base.get(name) != first.base.get(name):
                text = (
                    f"{key} holds runs that started from different models: {first.name} has "
                    f"model.{name}={first.base.get(name)}, {run.name} has model.{name}={run.base.get(name)}"
                )
                if given is None:
                    raise ConfigError(f"{text}; give the runs of each base a folder of their own")
                log.warning(f"{text}; all are set against model={given.get('name')}")
                return _base_settings(given)
    return first.base if given is None else _base_settings(given)


def _base_settings(model: dict[str, Any]) -> dict[str, Any]:
    return {key: model[key] for key in _BASE_KEYS if key in model}


def _run_folders(folder: Path) -> list[Path]:
    """Return the folders of runs, finished or not: those where a run wrote its config."""
    return sorted(path.parent for path in folder.rglob("config.yaml") if (path.parent / ".lock").is_file())


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        is_run = {"name", "seed", "model", "optimizer"} <= config.keys() and "name" in config["model"]
    except (OSError, ValueError, yaml.YAMLError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read as the config of a run: {' '.join(str(error).split())}") from error
    if not is_run or not isinstance(config["seed"], int):
        raise ConfigError(f"{path} is not the config of a run of degla-train: move {folder} out of the folder of runs")
    return config


def _read_end(finished: Path) -> dict[str, Any]:
    """Return what a run recorded at its end; {} where that cannot be read."""
    try:
        content = json.loads(finished.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _minutes(seconds: Any, config: Path, finished: Path) -> float | None:
    """Return the minutes of training; None where they are not known.

    Args:
        seconds: what the run recorded. Runs of earlier releases did not; then the times of two files tell it, unless
            they were copied without them.
        config: is written at the start, also when the run is resumed.
        finished: is written at the end.
    """
    if not isinstance(seconds, int | float):
        seconds = finished.stat().st_mtime - config.stat().st_mtime
        if seconds < 1:
            return None
    return round(seconds / 60, 2)


def _commit(folder: Path) -> str:
    try:
        return str(json.loads((folder / "provenance.json").read_text(encoding="utf-8"))["commit"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _weights(folder: Path) -> Path:
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    if (newest := newest_checkpoint(folder / "checkpoints")) is not None:
        return newest
    raise ConfigError(
        f"{folder} has neither {WEIGHTS} nor a usable checkpoints/step-*.ckpt: train it again, without "
        "callbacks.export=null, or move the folder away"
    )


def _refuse_repeats(runs: list[FoundRun]) -> None:
    seen: dict[str, FoundRun] = {}
    for run in runs:
        other = seen.setdefault(json.dumps([run.method, run.setting, run.seed]), run)
        if other is not run:
            raise ConfigError(
                f"{other.folder} and {run.folder} have the same method, setting and seed, so they would count as two "
                "seeds: move one of them away"
            )
