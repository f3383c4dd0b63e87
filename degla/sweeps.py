"""Sweeps that can be stopped and taken up again, and what they found. Imports no torch."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from degla.errors import ConfigError

log = logging.getLogger(__name__)


class SweepSummary(Callback):
    """Writes table and picture of a sweep when it has ended (``degla.report.sweep_report``)."""

    def on_multirun_end(self, config: DictConfig, **kwargs) -> None:
        """Only in the process that ran the sweep."""
        if os.environ.get("RANK", "0") == "0":
            from degla.report.sweep_report import print_sweep, write_sweep

            folder = Path(config.hydra.sweep.dir)
            print_sweep(write_sweep(folder), folder)


def storage(folder: str) -> str:
    """The address of the Optuna storage in a folder, which is made."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder}/study.db"


def trials_left(address: str, name: str, wanted: int) -> int:
    """How many trials of an Optuna study are still to be made.

    Trials that a kill cut short are put first in the queue, with their parameters: in the same folder, by
    ``ckpt_path=last``, they go on.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "+sweep=optuna needs what docs/sweeps.md names: pip install 'optuna>=4' and its plugin"
        ) from error
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if name not in optuna.get_all_study_names(address):
        return wanted
    study = optuna.load_study(study_name=name, storage=address)
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, skip_if_exists=False)
        log.warning(f"trial {trial.number} was cut short; it is taken up again: {trial.params}")
    return max(0, wanted - len(study.get_trials(states=[TrialState.COMPLETE])))


def trial_folder(overrides: Sequence[str], params: Mapping | None, number: int) -> str:
    """The folder of a job by what the sweep varies, so that the same job finds it again; else its number."""
    parts = dict(override.partition("=")[::2] for override in overrides)
    varied = [f"{key.rpartition('.')[2]}={parts[key]}" for key in params or () if key in parts]
    return ",".join(varied).replace("/", "-") or str(number)
