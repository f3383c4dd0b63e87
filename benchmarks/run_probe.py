"""A callback that measures some steps of a run and then ends it."""

import json
import multiprocessing
import os
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from floors import synchronised
from lightning.pytorch.profilers import SimpleProfiler

_WAITING = "train_dataloader_next"  # how Lightning's profiler names the time in which the loop waits for a batch


class RunProbe(L.Callback):
    """Measures ``steps`` steps after ``warm_up`` steps, writes a JSON file and ends the process.

    Args:
        path: the file.
        warm_up: steps that are not measured.
        steps: steps that are.
    """

    def __init__(self, path: str, warm_up: int, steps: int):
        self.path = Path(path)
        self.warm_up = warm_up
        self.steps = steps
        self.start = 0.0
        self.samples = 0
        self.waits_before = 0
        self.syncs = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, _: int
    ) -> None:
        """Start the clock after the warm-up, count samples, and end the run after the last step."""
        self.samples += len(batch.samples)
        if trainer.global_step == self.warm_up:
            self.samples, self.waits_before = 0, len(_waits(trainer))
            self._count_syncs(module.device)
            self.start = synchronised(module.device)
        if trainer.global_step == self.warm_up + self.steps:
            seconds = synchronised(module.device) - self.start
            waits = _waits(trainer)[self.waits_before :]
            figures = {"seconds": seconds, "samples": self.samples, "waiting_seconds": sum(waits)}
            if module.device.type == "cuda":
                figures["syncs"] = self.syncs
            self.path.write_text(json.dumps(figures))
            for worker in multiprocessing.active_children():
                worker.kill()
            os._exit(0)

    def _count_syncs(self, device: torch.device) -> None:
        if device.type != "cuda":
            return
        torch.cuda.set_sync_debug_mode("warn")
        warnings.simplefilter("always")
        shown = warnings.showwarning

        def count(message: Warning | str, *arguments: Any, **keywords: Any) -> None:
            if "synchroniz" in str(message):
                self.syncs += 1
            else:
                shown(message, *arguments, **keywords)

        warnings.showwarning = count


def _waits(trainer: L.Trainer) -> list[float]:
    profiler = trainer.profiler  # type: ignore[attr-defined]  # set in a connector
    assert isinstance(profiler, SimpleProfiler)
    return [
        seconds for name, times in profiler.recorded_durations.items() if name.endswith(_WAITING) for seconds in times
    ]
