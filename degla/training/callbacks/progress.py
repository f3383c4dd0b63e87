"""One live progress bar over the whole run, because one Lightning epoch is the whole run here."""

import time
from typing import Any

import lightning as L
import rich
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from degla.data.batch import Batch

_LINE_SECONDS = 30.0  # from one line to the next where the output is a file


class ProgressBar(LightningProgressBar):
    """Shows steps, loss, samples per second and the remaining time.

    In a terminal it is one bar that is redrawn; in a file it is a line every half minute.

    Args:
        refresh_rate: batches from one redraw to the next.
    """

    def __init__(self, refresh_rate: int = 10):
        super().__init__()
        self.refresh_rate = refresh_rate
        self._is_enabled = True
        self._progress: Progress | None = None
        self._task: Any = None
        self._num_samples = 0
        self._start_time = 0.0
        self._last_line = 0.0

    def disable(self) -> None:
        """Show nothing; Lightning calls this on all ranks but the first."""
        self._is_enabled = False

    def enable(self) -> None:
        """Show the bar again."""
        self._is_enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the bar at the step from which the run resumes."""
        super().on_train_start(trainer, pl_module)
        self._start_time = self._last_line = time.monotonic()
        self._num_samples = 0
        console = rich.get_console()
        if not self._is_enabled or not trainer.is_global_zero or not console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self._progress.start()
        steps = self._total_steps(trainer)
        self._task = self._progress.add_task("Training", total=steps, completed=trainer.global_step, values="")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Redraw the bar, or print a line, where it is time for it."""
        self._num_samples += len(batch.samples) * trainer.world_size
        if not self._is_enabled or not trainer.is_global_zero:
            return
        is_last = trainer.global_step == self._total_steps(trainer)
        if self._progress is not None:
            if is_last or batch_idx % self.refresh_rate == 0:
                self._progress.update(self._task, completed=trainer.global_step, values=self._values(trainer))
        elif time.monotonic() - self._last_line > _LINE_SECONDS or is_last:
            self._last_line = time.monotonic()
            line = f"step {trainer.global_step}/{self._total_steps(trainer) or '?'}  {self._values(trainer)}"
            rich.get_console().print(line, highlight=False, soft_wrap=True)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say that the run validates; the bar stands still meanwhile."""
        super().on_validation_start(trainer, pl_module)
        self._describe("Validating")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say that the run trains on."""
        super().on_validation_end(trainer, pl_module)
        self._describe("Training")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the finished bar on the screen."""
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Give the terminal back, with its cursor."""
        self._stop()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the terminal back, with its cursor."""
        self._stop()

    def _describe(self, description: str) -> None:
        if self._progress is not None:
            self._progress.update(self._task, description=description)

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _total_steps(self, trainer: L.Trainer) -> int | None:
        """Return the optimizer steps of the whole run; None where only time limits it."""
        batches = super().total_train_batches
        steps = [] if batches == float("inf") else [-(-int(batches) // trainer.accumulate_grad_batches)]
        return min([*steps, trainer.max_steps] if trainer.max_steps >= 0 else steps, default=None)

    def _values(self, trainer: L.Trainer) -> str:
        loss = trainer.progress_bar_metrics.get("loss")
        seconds = max(time.monotonic() - self._start_time, 1e-9)
        shown = f"loss {float(loss):.3f}  " if loss is not None else ""
        return f"{shown}{self._num_samples / seconds:.0f} samples/s"
