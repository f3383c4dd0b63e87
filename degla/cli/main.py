"""Run a program under Hydra: its configs, its resolvers, and its errors as one sentence.

Imports no torch.
"""

import functools
import multiprocessing
import os
import shlex
import signal
import sys
from collections.abc import Callable
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from degla.cli.bounds import check_bounds
from degla.cli.explain import explain, words_to_explain
from degla.cli.keys import help_of_groups
from degla.cli.machine import machine_sentence
from degla.cli.messages import sentence, unread_argument
from degla.cli.paths import config_dir, run_folder
from degla.cli.sweeps import storage, trial_folder, trials_left
from degla.cli.version import version_text
from degla.errors import ConfigError, DeglaError
from degla.objective_terms import with_short_forms, write_out_terms

USAGE_ERROR = 2  # exit code where the user can correct the command
_CLOSED_PIPE = 141  # exit code of a program that SIGPIPE ends, in every shell
_ONLY_PRINTS = {"--help", "-h", "--hydra-help", "--version", "--options", "--cfg", "-c", "--info", "-i"}

__all__ = ["USAGE_ERROR", "command_line", "config_dir", "run_folder", "run_program"]


def run_program(config_name: str, task: Callable[[DictConfig], Any]) -> None:
    """Run ``task`` under Hydra with this project's configs.

    An error that the user can correct is printed as one sentence, and the program exits with code 2. With
    ``HYDRA_FULL_ERROR=1`` in the environment it keeps its traceback. ``--version`` prints our versions, not Hydra's.
    ``--options`` explains the keys of groups.

    Args:
        config_name: the root config of the program, such as ``train``.
        task: called with the composed config.
    """
    arguments = sys.argv[1:] = with_short_forms(sys.argv[1:])
    keep_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise its errors instead of printing them
    try:
        if "--version" in arguments:
            print(version_text())
        elif (words := words_to_explain(arguments)) is not None:
            print(explain(config_name, words))
        elif problem := unread_argument(arguments, config_name):
            raise ConfigError(problem)
        else:
            _run_under_hydra(config_name, task)
        sys.stdout.flush()
    except (DeglaError, HydraException, OmegaConfBaseException) as error:
        if keep_traceback:
            raise
        print(f"error: {sentence(error, config_name, arguments)}", file=sys.stderr)
        _kill_workers()
        sys.exit(USAGE_ERROR)
    except BrokenPipeError:
        if not _ONLY_PRINTS & {argument.partition("=")[0] for argument in arguments}:
            raise
        # The reader, such as head, has closed the pipe. The interpreter must not flush into it again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_CLOSED_PIPE)


def _kill_workers() -> None:
    """Kill data-loading workers that still run, because Python waits for them when it ends, and one may hang."""
    if workers := multiprocessing.active_children():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise an error for each of them
        for worker in workers:
            worker.kill()


def command_line(program: str) -> str:
    """Return the command line as Hydra has recorded it, or "" where the program was called from Python.

    Args:
        program: name of the command, such as ``degla-evaluate``.
    """
    return shlex.join([program, *HydraConfig.get().overrides.task]) if HydraConfig.initialized() else ""


def _run_under_hydra(config_name: str, task: Callable[[DictConfig], Any]) -> None:
    errors: list[DeglaError] = []
    is_composed = False

    @functools.wraps(task)
    def checked_task(cfg: DictConfig) -> Any:
        nonlocal is_composed
        is_composed = True
        try:
            return _run_task(task, cfg, config_name)
        except DeglaError as error:
            # Hydra prints "Error executing job with overrides" for a job that raises. In a sweep that line says
            # which job failed; for a single run it hides our sentence.
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                raise
            errors.append(error)
            return None

    try:
        hydra.main(version_base="1.3", config_path=config_dir(), config_name=config_name)(checked_task)()
    except (TypeError, ValueError) as error:
        # While it composes the config, Hydra raises bare errors for some malformed overrides, such as ~data=1.
        if is_composed or isinstance(error, OmegaConfBaseException):
            raise
        raise ConfigError(" ".join(str(error).partition(" : Override(")[0].split())) from error
    except OSError as error:  # Hydra creates the folder of the run
        if is_composed or not (text := machine_sentence(error, config_name)):
            raise
        raise ConfigError(text) from error
    if errors:
        raise errors[0]


def _run_task(task: Callable[[DictConfig], Any], cfg: DictConfig, program: str) -> Any:
    write_out_terms(cfg)
    check_bounds(cfg, program)
    try:
        return task(cfg)
    except DeglaError:
        raise
    except Exception as error:
        if not (text := machine_sentence(error, program, cfg)):
            raise
        raise ConfigError(text) from error


# Registered at import, because launchers unpickle a config in a fresh process before they call anything of ours.
OmegaConf.register_new_resolver("degla.run_folder", run_folder, use_cache=True, replace=True)
OmegaConf.register_new_resolver("degla.groups", help_of_groups, replace=True)
OmegaConf.register_new_resolver("degla.storage", storage, replace=True)
OmegaConf.register_new_resolver("degla.trials_left", trials_left, use_cache=True, replace=True)
OmegaConf.register_new_resolver("degla.trial_folder", trial_folder, replace=True)
