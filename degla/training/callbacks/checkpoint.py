"""Checkpoints from which a run resumes with the result of an uninterrupted run."""

import logging
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from degla.artifacts import PARTIAL_SUFFIX
from degla.bounds import Bound, bounded, is_whole, whole
from degla.compat.lightning import (
    all_batches_read,
    batch_progress,
    last_saved_step,
    save_checkpoint_now,
    set_last_saved_step,
)
from degla.errors import CheckpointError
from degla.training.checkpoint_writer import CheckpointWriter

log = logging.getLogger(__name__)

_KEPT = Bound(
    lambda value: is_whole(value) and (value == -1 or value >= 1), "a whole number of 1 or more, or -1 to keep all"
)


class RunCheckpoint(ModelCheckpoint):
    """Writes ``step-<n>.ckpt`` every ``every_n_steps`` steps, on a signal, and at the end of the run.

    A checkpoint appears whole or not at all, and an older one is deleted only after a newer one is on the disk.

    The checkpoints on a signal and at the end are never asynchronous: the run ends when they are on the disk. An error
    in writing an asynchronous one ends the run at the next step.

    Args:
        dirpath: folder of the checkpoints.
        every_n_steps: optimizer steps from one checkpoint to the next.
        keep_last: how many of the newest checkpoints are kept; -1 keeps all.
        asynchronous: training waits only until the state is copied to the memory of the host, which needs as much
            memory as the file has bytes; a thread writes the file.

    Raises:
        ConfigError: a number is out of its bounds.
    """

    @bounded("callbacks.checkpoint")
    def __init__(
        self,
        dirpath: str,
        every_n_steps: Annotated[int, whole(1)] = 500,
        keep_last: Annotated[int, _KEPT] = 2,
        asynchronous: bool = False,
    ):
        super().__init__(
            dirpath=dirpath,
            filename="step-{step:08d}",
            auto_insert_metric_name=False,
            every_n_train_steps=every_n_steps,
            save_top_k=-1,  # Lightning deletes nothing; `_remove_older` does
            save_on_train_epoch_end=False,
            enable_version_counter=False,  # a damaged checkpoint is overwritten when its step comes again
        )
        self.keep_last = keep_last
        self._writer = CheckpointWriter(asynchronous, when_written=self._remove_older)
        self._loops_of_last_step: dict[str, Any] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Replace Lightning's file writer, and remove files that a killed run left incomplete."""
        super().setup(trainer, pl_module, stage)
        trainer.strategy.checkpoint_io = self._writer
        if trainer.is_global_zero:
            Path(str(self.dirpath)).mkdir(parents=True, exist_ok=True)  # later its absence is an error
            for partial in Path(str(self.dirpath)).glob(f"*{PARTIAL_SUFFIX}"):
                partial.unlink()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that all ranks resume from the same step.

        Raises:
            CheckpointError: this rank found another checkpoint than rank 0.
        """
        super().on_train_start(trainer, pl_module)
        step = trainer.strategy.broadcast(trainer.global_step)
        if step != trainer.global_step:
            raise CheckpointError(
                f"rank {trainer.global_rank} resumes from step {trainer.global_step}, rank 0 from step {step}: they "
                "see different files; set ckpt_path to one step-*.ckpt that all ranks see"
            )
        if step:
            set_last_saved_step(self, step)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save after a signal, for which Lightning raises between batches; other errors may interrupt a step.

        Raises:
            CheckpointError: the checkpoint of a signal cannot be written.
        """
        if isinstance(exception, SIGTERMException):
            if trainer.global_step:
                self._save_now(trainer)
        elif not isinstance(exception, KeyboardInterrupt):  # a second Ctrl-C stops at once
            try:
                self._writer.wait()
            except CheckpointError as error:
                log.error(str(error))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save every ``every_n_steps`` steps, but the last step only after the evaluation and the export.

        Lightning does nothing for a run that is resumed after its last step. So a kill during the last evaluation
        would leave the run without evaluation and export for good.

        Raises:
            CheckpointError: the last asynchronous checkpoint could not be written.
        """
        self._writer.raise_error()
        if is_last_batch(trainer):
            self._loops_of_last_step = deepcopy(trainer.fit_loop.state_dict())
        else:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the end of the run; Lightning calls checkpoint callbacks after all others.

        The loops are saved as they were after the last step. By now they are marked as finished, and a checkpoint
        with that mark would not train further when ``trainer.max_steps`` is raised.
        """
        self._save_now(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Count the micro-batches of an unfinished accumulation as not read.

        Their gradients are not saved, and the weights have not changed since the accumulation began. So the resumed
        run reads them again.
        """
        if self._loops_of_last_step is not None:
            checkpoint["loops"]["fit_loop"] = self._loops_of_last_step
        progress = batch_progress(checkpoint)
        num_pending = progress["current"]["processed"] % trainer.accumulate_grad_batches
        if all_batches_read(trainer):  # the last accumulation may be a short one
            return
        for counts in (progress["total"], progress["current"]):
            for stage in ("ready", "started", "processed", "completed"):
                counts[stage] -= num_pending

    def _save_now(self, trainer: L.Trainer) -> None:
        """Save this step if it has not been saved, and wait on all ranks until its checkpoint is on the disk."""
        is_fast_dev_run = getattr(trainer, "fast_dev_run", False)
        if last_saved_step(self) != trainer.global_step and not is_fast_dev_run:
            with self._writer.in_foreground():
                save_checkpoint_now(self, trainer)
        else:
            self._writer.wait()
            # A rank that ended before the first one has written could have its launcher kill the first one.
            trainer.strategy.barrier("the checkpoint is on the disk")

    def _remove_older(self, path: Path) -> None:
        """Delete the oldest checkpoints, now that a new one is on the disk."""
        if self.keep_last > 0 and path.match("step-*.ckpt"):
            older = sorted(other for other in path.parent.glob("step-*.ckpt") if other.stem <= path.stem)
            for old in older[: -self.keep_last]:
                old.unlink()


def is_last_batch(trainer: L.Trainer) -> bool:
    """Return whether training ends with this batch, by ``loader.epochs``, ``trainer.max_steps`` or ``max_time``."""
    return all_batches_read(trainer) or trainer.global_step == trainer.max_steps or trainer.should_stop
