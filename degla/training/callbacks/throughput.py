"""A callback that logs the speed of training."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from degla.data.batch import Batch


class Throughput(Callback):
    """Logs ``train/samples_per_second`` over all ranks, in wall time from one log step to the next."""

    def __init__(self) -> None:
        self._last_log_time: float | None = None
        self._num_samples = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the samples, and log the speed at the steps at which Lightning logs."""
        self._num_samples += len(batch.samples) * trainer.world_size
        if (batch_idx + 1) % trainer.log_every_n_steps:  # type: ignore[attr-defined]  # set in a connector
            return
        now = time.perf_counter()
        if self._last_log_time is not None:  # the first interval contains start-up and compilation
            speed = self._num_samples / (now - self._last_log_time)
            pl_module.log("train/samples_per_second", speed, batch_size=1)
        self._last_log_time, self._num_samples = now, 0
