"""Sweeps that can be stopped and taken up again, and what they found. Imports no torch."""

import fcntl
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from degla.errors import ConfigError

log = logging.getLogger(__name__)


class SweepSummary(Callback):
    """Writes table and picture of a sweep when it has ended (``degla.report.sweep_report``)."""

    def __init__(self):
        self._has_failed = False

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs) -> None:
        """Once a job has failed Hydra will end without a word to us: the table is written after each."""
        self._has_failed |= job_return.status is JobStatus.FAILED
        if self._has_failed and config.hydra.mode is RunMode.MULTIRUN and os.environ.get("RANK", "0") == "0":
            from degla.report.sweep_report import write_sweep

            write_sweep(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **kwargs) -> None:
        """Only in the process that ran the sweep."""
        if os.environ.get("RANK", "0") == "0":
            from degla.report.sweep_report import print_sweep, write_sweep

            folder = Path(config.hydra.sweep.dir)
            print_sweep(write_sweep(folder), folder)


def is_search() -> bool:
    """Whether this is a job of a search, which cannot do without a value."""
    hydra = HydraConfig.get()
    return hydra.mode is RunMode.MULTIRUN and "direction" in hydra.sweeper


def storage(folder: str) -> str:
    """The address of the Optuna storage in a folder, which is made."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    return f"{_SQLITE}{folder}/study.db"


def trials_left(address: str, name: str, wanted: int, *measured: object) -> int:
    """How many trials of an Optuna study are still to be made.

    Trials that a kill cut short are put first in the queue, with their parameters: in the same folder, by
    ``ckpt_path=last``, they go on.

    Args:
        address: of the storage.
        name: of the study.
        wanted: finished trials in all.
        measured: what gives a run a value; at least one must be set.

    Raises:
        ConfigError: nothing is measured, Optuna is missing, or the search is under way.
    """
    if not any(measured):
        raise ConfigError(
            "a search needs something to make larger: set benchmark=scenes or another, data@val_data=..., or "
            "loader.val_fraction=0.05"
        )
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "+sweep=optuna needs what docs/clusters.md names: pip install 'optuna>=4' and its plugin"
        ) from error
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _lock(Path(address.removeprefix(_SQLITE)), name)
    if name not in optuna.get_all_study_names(address):
        return wanted
    study = optuna.load_study(study_name=name, storage=address)
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, skip_if_exists=False)
        log.warning(f"trial {trial.number} was cut short; it is taken up again: {trial.params}")
    return max(0, wanted - len(study.get_trials(states=[TrialState.COMPLETE])))


def trial_folder(overrides: Sequence[str], params: Mapping | None) -> str:
    """The folder of a job by its settings, so that the same job, and no other, finds it again.

    Args:
        overrides: of the job, those of the command line and those of the search.
        params: of the search, which are shown; the rest is in a hash.
    """
    parts = dict(override.lstrip("+").partition("=")[::2] for override in overrides)
    varied = [f"{key.rpartition('.')[2]}={parts[key]}" for key in params or () if key in parts]
    known = sorted(item for item in parts.items() if item[0] not in _NOT_A_SETTING)
    return ",".join([*varied, hashlib.sha256(str(known).encode()).hexdigest()[:8]]).replace("/", "-")


_NOT_A_SETTING = ("trials", "ckpt_path")
_SQLITE = "sqlite:///"
_locks: dict[Path, TextIO] = {}


def _lock(database: Path, name: str) -> None:
    """Hold a study until this process ends: who counts its trials takes those under way for dead."""
    if database in _locks:
        return
    file = database.with_suffix(".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ConfigError(f"the search {name} is running in {database.parent}: wait, or set another name") from error
    _locks[database] = file
