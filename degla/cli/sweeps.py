"""Sweeps that resume after an interruption, and the summary of a sweep.

Imports no torch.
"""

import fcntl
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from degla.errors import ConfigError, MissingDependencyError
from degla.objective_terms import short_key

log = logging.getLogger(__name__)

_SQLITE = "sqlite:///"
_KEYS_OUTSIDE_THE_HASH = ("trials", "ckpt_path")  # they change how long a search is, not what a trial trains
_locks: dict[Path, TextIO] = {}  # open lock files of this process, by database


class SweepSummary(Callback):
    """Hydra callback that writes the tables and plots of a sweep (``degla.report.sweep_report``)."""

    def __init__(self) -> None:
        self._has_failed = False

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write the summary after each job once a job has failed, because Hydra then skips ``on_multirun_end``."""
        self._has_failed |= job_return.status is JobStatus.FAILED
        if self._has_failed and config.hydra.mode is RunMode.MULTIRUN and os.environ.get("RANK", "0") == "0":
            from degla.report.sweep_report import write_sweep

            write_sweep(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write and print the summary in the process that ran the sweep."""
        if os.environ.get("RANK", "0") == "0":
            from degla.report.sweep_report import print_sweep, write_sweep

            folder = Path(config.hydra.sweep.dir)
            print_sweep(write_sweep(folder), folder)


def is_search() -> bool:
    """Return whether this is a job of a search, which needs a value from every trial."""
    if not HydraConfig.initialized():
        return False
    hydra = HydraConfig.get()
    return hydra.mode is RunMode.MULTIRUN and "direction" in hydra.sweeper


def storage(folder: str) -> str:
    """Return the address of the Optuna storage in ``folder``, and create the folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    return f"{_SQLITE}{folder}/study.db"


def trials_left(address: str, name: str, num_trials: int, *measurements: object) -> int:
    """Return how many trials an Optuna study still has to run.

    Interrupted trials are queued again, first and with the same parameters. They run in the same folders, where
    ``ckpt_path=last`` resumes them.

    Args:
        address: address of the storage.
        name: name of the study.
        num_trials: number of finished trials that the study should end with.
        measurements: the settings that give a run a value; at least one must be set.

    Raises:
        ConfigError: nothing is measured, or another process runs this search.
        MissingDependencyError: Optuna is not installed.
    """
    if not any(measurements):
        raise ConfigError(
            "a search needs a value to maximize: set benchmark=scenes or another, data@val_data=..., or "
            "loader.val_fraction=0.05"
        )
    try:
        import optuna
    except ImportError as error:
        raise MissingDependencyError(
            "+sweep=optuna needs optuna and Hydra's plugin for it (docs/clusters.md): pip install 'optuna>=4' and "
            "pip install --no-deps hydra-optuna-sweeper==1.3.0"
        ) from error
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _lock_study(Path(address.removeprefix(_SQLITE)), name)
    if name not in optuna.get_all_study_names(address):
        return num_trials
    study = optuna.load_study(study_name=name, storage=address)
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, skip_if_exists=False)
        log.warning(f"trial {trial.number} was interrupted; it is queued again: {trial.params}")
    return max(0, num_trials - len(study.get_trials(states=[TrialState.COMPLETE])))


def trial_folder(overrides: Sequence[str], params: Mapping[str, str] | None) -> str:
    """Return the name of a job's folder, made from its settings: the same settings give the same folder.

    Args:
        overrides: overrides of the job, both from the command line and from the search.
        params: parameters of the search, which the name shows. All other settings go into a hash.
    """
    settings = dict(override.lstrip("+").partition("=")[::2] for override in overrides)
    shown = [f"{short_key(key).rpartition('.')[2]}={settings[key]}" for key in params or () if key in settings]
    hashed = sorted(item for item in settings.items() if item[0] not in _KEYS_OUTSIDE_THE_HASH)
    return ",".join([*shown, hashlib.sha256(str(hashed).encode()).hexdigest()[:8]]).replace("/", "-")


def _lock_study(database: Path, name: str) -> None:
    """Lock a study until this process ends, because a second process would treat running trials as interrupted."""
    if database in _locks:
        return
    file = database.with_suffix(".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ConfigError(
            f"another process runs the search {name} in {database.parent}: wait for it, or set another name"
        ) from error
    _locks[database] = file
