"""One live progress bar over the whole run, because one Lightning epoch is the whole run here."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import lightning as L
import rich
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from degla.bounds import bounded, whole
from degla.data.batch import Batch

_LINE_SECONDS = 30.0  # from one line to the next where the output is a file
_MIN_STEPS = 50  # steps of a run for which an estimate of its time is worth a line
_TIMED_STEPS = 10  # steps timed for the estimate, after the first, which also allocates and compiles


class ProgressBar(LightningProgressBar):
    """Shows steps, loss, samples per second and the remaining time, and says when the run validates or evaluates.

    In a terminal it is one bar that is redrawn; in a file it is a line every half minute. After the first steps of a
    run that is longer than 50 steps, a line says how long it will take.

    Args:
        refresh_rate: batches from one redraw to the next.
    """

    @bounded("callbacks.progress_bar")
    def __init__(self, refresh_rate: Annotated[int, whole(1)] = 10):
        super().__init__()
        self.refresh_rate = refresh_rate
        self._is_enabled = True
        self._progress: Progress | None = None
        self._task: Any = None
        self._num_samples = 0
        self._start_time = 0.0
        self._last_line = time.monotonic()
        self._timed_from: tuple[int, float] | None = None  # step and training time at which timing started
        self._pause_start = 0.0
        self._paused_seconds = 0.0  # spent in validation and benchmarks
        self._has_estimate = False

    def disable(self) -> None:
        """Show nothing; Lightning calls this on all ranks but the first."""
        self._is_enabled = False

    def enable(self) -> None:
        """Show the bar again."""
        self._is_enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move the bar to the step from which the run resumes."""
        super().on_train_start(trainer, pl_module)
        self._start_time = self._last_line = time.monotonic()
        self._num_samples, self._paused_seconds = 0, 0.0
        self._timed_from, self._has_estimate = None, False
        self._start(trainer)
        if self._progress is not None:
            total = self._total_steps(trainer)
            self._progress.update(self._task, total=total, completed=trainer.global_step)

    def _start(self, trainer: L.Trainer) -> None:
        """Start the bar unless there is one, or the output is a file."""
        console = rich.get_console()
        if self._progress or not self._is_enabled or not trainer.is_global_zero or not console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=trainer.state.fn == TrainerFn.VALIDATING,  # the bar of the training stays on the screen
        )
        total = self._total_steps(trainer)
        self._task = self._progress.add_task("Training", total=total, completed=trainer.global_step, values="")
        self._progress.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Redraw the bar, or print a line, where it is time for it."""
        self._num_samples += len(batch.samples) * trainer.world_size
        if not self._is_enabled or not trainer.is_global_zero:
            return
        self._print_estimate(trainer)
        is_last = trainer.global_step == self._total_steps(trainer)
        if self._progress is not None:
            if is_last or batch_idx % self.refresh_rate == 0:
                self._progress.update(self._task, completed=trainer.global_step, values=self._values(trainer))
        elif self._is_line_due() or is_last:
            total = self._total_steps(trainer) or "?"
            self._print_line(f"step {trainer.global_step}/{total}  {self._values(trainer)}")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say that the run validates, also before the first step and after the last."""
        super().on_validation_start(trainer, pl_module)
        self._start(trainer)
        self._pause_start = time.monotonic()
        self._describe("Validating")

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batches of validation."""
        batches = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self._describe(f"Validating {batch_idx + 1}/{sum(batches)}")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say that the run trains again."""
        super().on_validation_end(trainer, pl_module)
        self._paused_seconds += time.monotonic() - self._pause_start
        self._describe("Training")

    @contextmanager
    def describing(self, activity: str) -> Iterator[None]:
        """Show ``activity`` instead of "Training", and leave its time out of the estimate.

        Args:
            activity: one word, such as "Evaluating".
        """
        start = time.monotonic()
        self._describe(activity)
        yield
        self._paused_seconds += time.monotonic() - start
        self._describe("Training")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Give the terminal back, with its cursor."""
        self._stop()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the finished bar on the screen, after the benchmarks of the last step."""
        self._stop()

    def _describe(self, description: str) -> None:
        if self._progress is not None:
            self._progress.update(self._task, description=description, refresh=True)
        elif self._is_line_due():
            self._print_line(description)

    def _is_line_due(self) -> bool:
        is_shown = self._is_enabled and self.trainer.is_global_zero
        return is_shown and time.monotonic() - self._last_line > _LINE_SECONDS

    def _print_line(self, line: str) -> None:
        self._last_line = time.monotonic()
        rich.get_console().print(line, highlight=False, soft_wrap=True)

    def _print_estimate(self, trainer: L.Trainer) -> None:
        """Print once how long the rest of a long run takes, after the steps that are timed for it."""
        step, total = trainer.global_step, self._total_steps(trainer)
        if self._has_estimate or total is None or total <= _MIN_STEPS:
            return
        now = time.monotonic() - self._paused_seconds
        if self._timed_from is None:
            self._timed_from = step, now
            return
        first_step, start = self._timed_from
        if step - first_step < _TIMED_STEPS:
            return
        self._has_estimate = True
        left = _readable((now - start) / (step - first_step) * (total - step))
        line = f"time        about {left} left, without validation and benchmarks"  # aligned with the opening block
        rich.get_console().print(line, highlight=False, soft_wrap=True)

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


def _readable(seconds: float) -> str:
    """Return a duration in one unit, or in hours and minutes."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
