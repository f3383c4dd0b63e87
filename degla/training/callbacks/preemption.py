"""Stopping on a signal at a moment that all ranks agree on."""

import logging
import os
import signal
import subprocess

import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from degla.training.callbacks.checkpoint import is_last_batch

log = logging.getLogger(__name__)


_STOP, _REQUEUE = 1, 2
# SIGUSR1 is how SLURM gives notice (sbatch --signal=USR1@120), SIGUSR2 how submitit has SLURM give it.
_SIGNALS = {signal.SIGTERM: _STOP, signal.SIGUSR1: _REQUEUE, signal.SIGUSR2: _REQUEUE}


class Preemption(Callback):
    """On SIGTERM, SIGUSR1 or SIGUSR2 to any rank, all ranks end after the same batch, and the run is saved.

    Lightning alone stops the rank that got the signal, wherever the others are, and sends a collective of its own from
    within the signal handler; a signal to any rank but the first hangs the run.

    A validation under way is finished first; after the last batch the run ends by itself.
    """

    def __init__(self):
        self._noted = 0  # by this rank, at any time
        self._agreed = 0  # by all, at the end of a batch
        self._group = None
        self._handlers = {}

    def setup(self, trainer, pl_module, stage: str) -> None:
        """Take the signals instead of Lightning, for all of the run."""
        trainer._signal_connector.register_signal_handlers = lambda: None
        self._handlers = {number: signal.signal(number, self._note) for number in _SIGNALS}

    def teardown(self, trainer, pl_module, stage: str) -> None:
        """Give them back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def on_train_start(self, trainer, pl_module) -> None:
        """A group of its own for the question, by way of the CPU: no waiting for the device."""
        if trainer.world_size > 1:
            self._group = dist.new_group(backend="gloo")
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Ask whether any rank got a signal; Lightning then raises on each, before the next batch."""
        agreed = torch.tensor(self._noted)
        if self._group is not None:
            dist.all_reduce(agreed, dist.ReduceOp.MAX, self._group)
        self._agreed = int(agreed)  # a signal that came while the ranks met waits for the next batch
        self._tell(trainer, bool(self._agreed) and not is_last_batch(trainer))

    def on_validation_start(self, trainer, pl_module) -> None:
        """Half a validation is none: Lightning would stop in its midst."""
        self._tell(trainer, False)

    def on_validation_end(self, trainer, pl_module) -> None:
        """Now it may stop."""
        self._tell(trainer, bool(self._agreed) and not trainer.sanity_checking and not is_last_batch(trainer))

    def requeue(self, goes_on: bool) -> None:
        """Put the SLURM job back into the queue if it was SLURM that gave notice.

        Args:
            goes_on: whether the job would go on where this run stopped, and not start anew.
        """
        job = os.environ.get("SLURM_JOB_ID")
        if self._agreed != _REQUEUE or job is None:
            return
        if not goes_on:
            log.warning("the job is not put back into the queue, where it would start anew: set ckpt_path=last")
            return
        if "SLURM_ARRAY_JOB_ID" in os.environ:
            job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        try:
            done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
            result = "done" if done.returncode == 0 else done.stderr.strip()
        except OSError as error:  # inside a container
            result = str(error)
        log.warning(f"scontrol requeue {job}: {result}")

    def _note(self, number: int, frame) -> None:
        self._noted = max(self._noted, _SIGNALS[number])

    def _tell(self, trainer, stop: bool) -> None:
        trainer._signal_connector.received_sigterm = stop
