"""Stop on a signal, after a batch that all ranks agree on."""

import logging
import os
import signal
import subprocess
import time
from types import FrameType
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from degla.compat.lightning import disable_signal_handlers, disable_sigterm_broadcast, request_stop
from degla.training.callbacks.checkpoint import is_last_batch

log = logging.getLogger(__name__)

# Ctrl-C, a closed terminal, and what schedulers send.
_STOP_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
# SLURM sends SIGUSR1 before the time limit (sbatch --signal=USR1@120), and SIGUSR2 for jobs that submitit started.
_REQUEUE_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
_REQUEUE = 1000  # added to the numbers of the signals that requeue
_TERMINAL_FILES = (1, 2)  # file descriptors of standard output and standard error
_SAME_INTERRUPT_SECONDS = 1.0  # launchers may pass on the Ctrl-C that a process got from the terminal already
_INTERRUPT_NOTE = b"\nCtrl-C: stopping after this batch, then saving; press Ctrl-C again to stop at once\n"


class Preemption(Callback):
    """Stops all ranks after the same batch when any rank gets a signal, and saves the run.

    The signals are SIGINT (Ctrl-C), SIGHUP, SIGTERM, SIGUSR1 and SIGUSR2. A second Ctrl-C stops at once. Signals that
    the process ignores, as under ``nohup``, stay ignored.

    Lightning alone stops only the rank that got the signal, and calls a collective from within the signal handler, so
    a signal to any rank but the first hangs the run.

    A validation that has begun is finished first. After the last batch a signal changes nothing.
    """

    def __init__(self) -> None:
        self._received = 0  # `_urgency` of the signal that this process received; 0: none
        self._agreed = 0  # the same over all processes, at the end of a batch
        self._group: Any = None
        self._previous_handlers: dict[int, Any] = {}
        self._terminals: list[int] = []
        self._interrupt_time: float | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Handle the signals instead of Lightning."""
        disable_signal_handlers(trainer)
        numbers = [n for n in (*_STOP_SIGNALS, *_REQUEUE_SIGNALS) if signal.getsignal(n) is not signal.SIG_IGN]
        self._previous_handlers = {number: signal.signal(number, self._receive) for number in numbers}
        self._terminals = [file for file in _TERMINAL_FILES if os.isatty(file)]

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Create a process group on the CPU, so that asking the other ranks does not wait for the device."""
        if trainer.world_size > 1:
            self._group = dist.new_group(backend="gloo")
            disable_sigterm_broadcast(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask whether any rank received a signal; if so, Lightning raises on every rank before the next batch."""
        agreed = torch.tensor(self._received)
        if self._group is not None:
            dist.all_reduce(agreed, dist.ReduceOp.MAX, self._group)
        self._agreed = int(agreed)  # a signal that arrives during the reduction waits for the next batch
        request_stop(trainer, bool(self._agreed) and not is_last_batch(trainer))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the validation finish; half a validation has no metrics."""
        request_stop(trainer, False)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Allow the run to stop again."""
        stop = bool(self._agreed) and not trainer.sanity_checking and not is_last_batch(trainer)
        request_stop(trainer, stop)

    @property
    def stop_signal(self) -> signal.Signals:
        """Return the signal that stopped the run; SIGTERM where Lightning stopped it for another reason."""
        return signal.Signals(self._agreed % _REQUEUE if self._agreed else signal.SIGTERM)

    def requeue(self, resumes: bool) -> None:
        """Put the SLURM job back into the queue where SLURM announced the end of its time.

        Args:
            resumes: whether the same command would resume this run instead of starting a new one.
        """
        job = os.environ.get("SLURM_JOB_ID")
        if self.stop_signal not in _REQUEUE_SIGNALS or job is None:
            return
        if not resumes:
            log.warning("the job is not requeued, because it would start from step 0: set ckpt_path=last")
            return
        if "SLURM_ARRAY_JOB_ID" in os.environ:
            job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        try:
            process = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
            result = "done" if process.returncode == 0 else process.stderr.strip()
        except OSError as error:  # scontrol is missing inside a container
            result = str(error)
        log.warning(f"scontrol requeue {job}: {result}")

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._interrupt_time is None:
                os.write(2, _INTERRUPT_NOTE)  # not logged: the signal may arrive while a logger holds its lock
                self._interrupt_time = time.monotonic()
            elif time.monotonic() - self._interrupt_time > _SAME_INTERRUPT_SECONDS:
                raise KeyboardInterrupt
        if number == signal.SIGHUP:
            # The terminal is closed. Writing to it would raise an error before the run is saved.
            for file in self._terminals:
                os.dup2(os.open(os.devnull, os.O_WRONLY), file)
        self._received = max(self._received, _urgency(number))


def _urgency(number: int) -> int:
    """Return a number that is larger for signals that requeue the job, so that the ranks can agree on the maximum."""
    return number + (_REQUEUE if number in _REQUEUE_SIGNALS else 0)
