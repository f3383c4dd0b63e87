"""Run the training, and say in one sentence what a user can do when it cannot continue."""

import errno
import logging
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import lightning as L
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException

from degla.compat.lightning import kill_children
from degla.errors import ConfigError, DeglaError
from degla.training.build import Run
from degla.training.callbacks.preemption import Preemption
from degla.training.loggers import Wandb

log = logging.getLogger(__name__)

_EXIT_AFTER_SIGNAL = 128  # plus the signal's number, as shells do; schedulers read it as "stopped from outside"


def fit_or_explain(run: Run, checkpoint: Path | None, resumes_when_requeued: bool) -> None:
    """Train to the end; stop with exit code 128 + n after signal n, and with one sentence where the user can help.

    Args:
        run: what ``build`` made.
        checkpoint: file to resume from, or None.
        resumes_when_requeued: whether the same command, started again, would resume this run.

    Raises:
        DeglaError: the settings, the data or the machine do not allow the run.
        SystemExit: a signal stopped the run.
    """
    trainer = run.trainer
    try:
        trainer.fit(run.module, run.datamodule, ckpt_path=checkpoint)
        if len(run.datamodule.val_indices) and run.module.validated_step != trainer.global_step:
            trainer.validate(run.module, run.datamodule, verbose=False)
    except SIGTERMException:
        _exit_after_signal(trainer, resumes_when_requeued)
    except Exception as error:
        kill_children(trainer)  # otherwise the other ranks wait for this one until they time out
        advice = "" if isinstance(error, DeglaError) else advice_for(error)
        if not advice:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{advice} (step {trainer.global_step}: {reason})") from error
    finally:
        for logger in trainer.loggers:
            if isinstance(logger, Wandb):
                logger.close()


def _exit_after_signal(trainer: L.Trainer, resumes_when_requeued: bool) -> NoReturn:
    callbacks = [callback for callback in _callbacks(trainer) if isinstance(callback, Preemption)]
    number = callbacks[0].stop_signal if callbacks else signal.SIGTERM
    saved = (
        "the same command with ckpt_path=last resumes it" if trainer.global_step else "there was nothing to save yet"
    )
    log.warning(f"stopped by {number.name} at step {trainer.global_step}; {saved}")
    if callbacks and trainer.is_global_zero:
        callbacks[0].requeue(resumes=resumes_when_requeued)
    # Lightning watches the processes that it started. It would take any exit code but 0 for a crash, and kill the
    # first process while that one still writes.
    environment = getattr(trainer.strategy, "cluster_environment", None)
    was_started_by_lightning = isinstance(environment, LightningEnvironment) and environment.local_rank() > 0
    # SIGUSR1 and SIGUSR2 announce a SIGTERM, and count as one.
    code = _EXIT_AFTER_SIGNAL + (signal.SIGTERM if number in (signal.SIGUSR1, signal.SIGUSR2) else number)
    sys.exit(0 if was_started_by_lightning else code)


def _callbacks(trainer: L.Trainer) -> list[L.Callback]:
    return trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it in a connector, where mypy cannot see it


def advice_for(error: Exception) -> str:
    """Return what a user can do about an error of the machine, or "" for all other errors."""
    out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if out_of_memory or "can't allocate memory" in str(error):  # torch's words for the memory of a CPU
        return (
            "out of memory: set loader.chunk_size to a part of the batch (the same result), "
            "model.grad_checkpointing=true or precision=bf16-mixed, or lower loader.global_batch_size"
        )
    if "DataLoader worker" in str(error) and ("exited unexpectedly" in str(error) or "killed by signal" in str(error)):
        return (
            "a data-loading worker was killed, by a lack of memory or of shared memory: lower loader.num_workers or "
            "loader.global_batch_size, then resume with ckpt_path=last"
        )
    if "DataLoader timed out" in str(error):
        return (
            "the data-loading workers delivered no batch within loader.timeout_seconds: check the storage of the data, "
            "then resume with ckpt_path=last"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "the disk is full: free some space, then resume with ckpt_path=last"
    return ""


def refuse_hanging_restarts() -> None:
    """Refuse torchrun's restarts where a restarted run would hang.

    The workers would meet in a store that still holds the addresses of the run before (pytorch issue 135712).

    Raises:
        ConfigError: torchrun was called with ``--max-restarts`` and shares its store.
    """
    max_restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS") or 0)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and max_restarts:
        raise ConfigError(
            "torchrun --max-restarts would hang after the first restart: set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 "
            "before it, with --standalone or --rdzv_backend c10d"
        )
