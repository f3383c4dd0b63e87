"""The folder of a training run: its lock, its checkpoint to resume from, and its final result."""

import contextlib
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from degla.artifacts import atomic_write, checkpoint_error, lock_folder, newest_checkpoint, read_metrics
from degla.cli.instantiate import with_current_targets
from degla.errors import CheckpointError, ConfigError

log = logging.getLogger(__name__)

_FINISHED = "finished.json"  # written when a run has ended by itself and its report is there
_CONFIG = "config.yaml"


@contextlib.contextmanager
def lock_run_folder(run_dir: Path, is_first_rank: bool) -> Iterator[None]:
    """Keep other processes out of a run folder until the block ends.

    Args:
        run_dir: the folder; is created.
        is_first_rank: whether this process holds the lock; the other ranks of the run do not.

    Raises:
        ConfigError: another process holds the lock.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    if not is_first_rank:
        yield
        return
    with lock_folder(run_dir, "run_dir", "wait until that run has ended, or set another name"):
        yield


def claim_run_folder(cfg: DictConfig, run_dir: Path, is_first_rank: bool) -> None:
    """Save the resolved config in the folder of the run.

    Args:
        cfg: config of the run.
        run_dir: the folder.
        is_first_rank: whether this process writes the files.

    Raises:
        ConfigError: the folder holds another run, and ``ckpt_path`` is not ``last``.
    """
    if is_first_rank and cfg.ckpt_path != "last" and (run_dir / _CONFIG).exists():
        raise ConfigError(f"run_dir: {run_dir} holds a run already; set ckpt_path=last to resume it, or another name")
    if is_first_rank:
        (run_dir / _FINISHED).unlink(missing_ok=True)  # it belongs to other settings
        OmegaConf.save(cfg, run_dir / _CONFIG, resolve=True)


def find_checkpoint(ckpt_path: str | None, run_dir: Path) -> Path | None:
    """Return the checkpoint to resume from, or None for a run that starts at step 0.

    Args:
        ckpt_path: the setting: None, a file, or ``last`` for the newest usable checkpoint of ``run_dir``.
        run_dir: folder of the run.

    Raises:
        ConfigError: the file does not exist.
        CheckpointError: the file cannot be used.
    """
    if ckpt_path is None:
        return None
    if ckpt_path == "last":
        newest = newest_checkpoint(run_dir / "checkpoints")
        log.warning(
            f"ckpt_path=last: {f'resuming from {newest}' if newest else 'no checkpoint yet, starting at step 0'}"
        )
        return newest
    path = Path(ckpt_path)
    if not path.is_file():
        raise ConfigError(f"ckpt_path: there is no file {path}; set it to a step-*.ckpt, or to last")
    if error := checkpoint_error(path):
        raise CheckpointError(f"ckpt_path: {path}: {error}; set it to another step-*.ckpt, or to last")
    if path.name.startswith(("best-", "base.")):  # of the retention guard
        raise CheckpointError(
            f"ckpt_path: {path} holds weights only: start a new run from them with model.pretrained={path}, or set "
            "ckpt_path to a step-*.ckpt"
        )
    return path


def finished_value(cfg: DictConfig, run_dir: Path) -> float | None:
    """Return the value of a run that has finished with the same settings, or None.

    A sweep that is started again skips its finished jobs this way.

    Args:
        cfg: config of the run.
        run_dir: its folder.
    """
    if not (run_dir / _FINISHED).is_file():
        return None
    if _settings(cfg) != _settings(OmegaConf.load(run_dir / _CONFIG)):
        return None
    return json.loads((run_dir / _FINISHED).read_text(encoding="utf-8"))["value"]


def _settings(cfg: Any) -> dict[str, Any]:
    settings: Any = with_current_targets(OmegaConf.to_container(cfg, resolve=True))
    for key in ("ckpt_path", "resume"):
        settings.pop(key, None)
    return settings


def mark_as_finished(run_dir: Path, num_steps: int, value: float) -> None:
    """Record that the run has ended by itself, for ``finished_value``.

    Args:
        run_dir: folder of the run.
        num_steps: optimizer steps that it has taken.
        value: what a sweep maximises.
    """
    with atomic_write(run_dir / _FINISHED) as partial:
        partial.write_text(json.dumps({"steps": num_steps, "value": value}), encoding="utf-8")


def final_value(run_dir: Path) -> float:
    """Return the last ``eval_mean/overall``, else the last ``val/caption_choice``, else nan.

    It is read from ``metrics.csv``, because a run that is resumed after its last step measures nothing again.
    """
    path = run_dir / "metrics.csv"
    metrics = read_metrics(path) if path.exists() else {}
    values = metrics.get("eval_mean/overall") or metrics.get("val/caption_choice")
    return values[max(values)] if values else math.nan
