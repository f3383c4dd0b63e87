"""Stopping on a signal at a moment that all ranks agree on."""

import logging
import os
import signal
import subprocess

import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

log = logging.getLogger(__name__)


class Preemption(Callback):
    """On SIGTERM or SIGUSR1 to any rank, all ranks end after the same batch, and the run is saved.

    Lightning alone stops the rank that got the signal, wherever the others are, and sends a collective of its own from
    within the signal handler; a signal to any rank but the first hangs the run.

    SIGUSR1 is how SLURM gives notice (``sbatch --signal=USR1@120``): the job is then put back into the queue.
    """

    def __init__(self):
        self._signal = 0
        self._group = None

    def on_train_start(self, trainer, pl_module) -> None:
        """Take the signals over from Lightning, which gives them back when it ends."""
        if trainer.world_size > 1:
            self._group = dist.new_group(backend="gloo")  # by way of the CPU: no waiting for the device
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._note)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Ask whether any rank got a signal; Lightning then raises on each, before the next batch."""
        if self._group is not None:
            seen = torch.tensor(self._signal)
            dist.all_reduce(seen, dist.ReduceOp.MAX, self._group)
            self._signal = int(seen)
        trainer._signal_connector.received_sigterm = bool(self._signal)

    def requeue(self) -> None:
        """Put the SLURM job back into the queue if it was SLURM that gave notice."""
        job = os.environ.get("SLURM_JOB_ID")
        if self._signal != signal.SIGUSR1 or job is None:
            return
        if "SLURM_ARRAY_JOB_ID" in os.environ:
            job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        log.warning(f"scontrol requeue {job}: {'done' if done.returncode == 0 else done.stderr.strip()}")

    def _note(self, number: int, frame) -> None:
        self._signal = max(self._signal, number)
