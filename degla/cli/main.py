"""Run a program under Hydra: its configs, its resolvers, and its errors as one sentence.

Imports no torch.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from degla.cli.messages import sentence
from degla.cli.paths import config_dir, run_folder
from degla.cli.sweeps import storage, trial_folder, trials_left
from degla.errors import DeglaError

USAGE_ERROR = 2  # exit code where the user can correct the command

__all__ = ["USAGE_ERROR", "config_dir", "run_folder", "run_program"]


def run_program(config_name: str, task: Callable[[DictConfig], Any]) -> None:
    """Run ``task`` under Hydra with this project's configs.

    An error that the user can correct is printed as one sentence, and the program exits with code 2. With
    ``HYDRA_FULL_ERROR=1`` in the environment it keeps its traceback.

    Args:
        config_name: the root config of the program, such as ``train``.
        task: called with the composed config.
    """
    keep_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise its errors instead of printing them
    try:
        hydra.main(version_base="1.3", config_path=config_dir(), config_name=config_name)(task)()
    except (DeglaError, HydraException, OmegaConfBaseException) as error:
        if keep_traceback:
            raise
        print(f"error: {sentence(error)}", file=sys.stderr)
        sys.exit(USAGE_ERROR)


# Registered at import, because launchers unpickle a config in a fresh process before they call anything of ours.
OmegaConf.register_new_resolver("degla.run_folder", run_folder, use_cache=True, replace=True)
OmegaConf.register_new_resolver("degla.storage", storage, replace=True)
OmegaConf.register_new_resolver("degla.trials_left", trials_left, use_cache=True, replace=True)
OmegaConf.register_new_resolver("degla.trial_folder", trial_folder, replace=True)
