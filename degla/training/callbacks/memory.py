"""The memory that steps take on a GPU, beside what was planned."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from degla.report.memory import read_memory, write_memory

log = logging.getLogger(__name__)

_FIRST_STEP = 2  # steps before it create the optimizer's state and torch's caches
_LAST_STEP = 5


class MemoryUse(Callback):
    """Plans the memory of a step before the first one, and on a GPU measures it.

    The plan is made by ``degla-train`` and ``degla.finetune`` in a run that has this callback. After a few steps the
    allocator's peak joins it in ``memory.json``.

    Args:
        run_dir: folder of the run.
    """

    def __init__(self, run_dir: str):
        self.run_dir = Path(run_dir)
        self._num_batches = 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start to measure once the optimizer has its state."""
        if self._num_batches == _FIRST_STEP and pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the peak of the steps since then."""
        self._num_batches += 1
        if self._num_batches != _LAST_STEP or pl_module.device.type != "cuda" or not trainer.is_global_zero:
            return
        record = read_memory(self.run_dir)
        if record is not None:
            measured = torch.cuda.max_memory_allocated(pl_module.device)
            write_memory(self.run_dir, record.model_copy(update={"measured": measured}))
