"""Checkpoints from which a run resumes with the result of an uninterrupted run."""

import os
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from degla.artifacts import PARTIAL_SUFFIX, atomic_write, newest_checkpoint
from degla.bounds import Bound, bounded, is_whole, whole
from degla.compat.lightning import (
    all_batches_read,
    batch_progress,
    last_saved_step,
    save_checkpoint_now,
    set_last_saved_step,
)
from degla.errors import CheckpointError

_KEPT = Bound(
    lambda value: is_whole(value) and (value == -1 or value >= 1), "a whole number of 1 or more, or -1 to keep all"
)


class RunCheckpoint(ModelCheckpoint):
    """Writes ``step-<n>.ckpt`` every ``every_n_steps`` steps, on a signal, and at the end of the run.

    A checkpoint appears whole or not at all, and an older one is deleted only after a newer one is on the disk.

    Args:
        dirpath: folder of the checkpoints.
        every_n_steps: optimizer steps from one checkpoint to the next.
        keep_last: how many of the newest checkpoints are kept; -1 keeps all.

    Raises:
        ConfigError: a number is out of its bounds.
    """

    @bounded("callbacks.checkpoint")
    def __init__(
        self, dirpath: str, every_n_steps: Annotated[int, whole(1)] = 500, keep_last: Annotated[int, _KEPT] = 2
    ):
        super().__init__(
            dirpath=dirpath,
            filename="step-{step:08d}",
            auto_insert_metric_name=False,
            every_n_train_steps=every_n_steps,
            save_top_k=-1,  # Lightning deletes nothing; `_save_checkpoint` does
            save_on_train_epoch_end=False,
            enable_version_counter=False,  # a damaged checkpoint is overwritten when its step comes again
        )
        self.keep_last = keep_last
        self._loops_of_last_step: dict[str, Any] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Replace Lightning's file writer, and remove files that a killed run left incomplete."""
        super().setup(trainer, pl_module, stage)
        trainer.strategy.checkpoint_io = _AtomicCheckpointIO()
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
        """Save after a signal, for which Lightning raises between batches; other errors may interrupt a step."""
        if isinstance(exception, SIGTERMException) and trainer.global_step:
            self._save_now(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save every ``every_n_steps`` steps, but the last step only after the evaluation and the export.

        Lightning does nothing for a run that is resumed after its last step. So a kill during the last evaluation
        would leave the run without evaluation and export for good.
        """
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

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        if trainer.is_global_zero and self.keep_last > 0:
            path = Path(filepath)
            older = sorted(other for other in path.parent.glob("step-*.ckpt") if other.stem <= path.stem)
            for old in older[: -self.keep_last]:
                old.unlink()

    def _save_now(self, trainer: L.Trainer) -> None:
        is_fast_dev_run = getattr(trainer, "fast_dev_run", False)
        if last_saved_step(self) != trainer.global_step and not is_fast_dev_run:
            save_checkpoint_now(self, trainer)


class _AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name beside its target, flushes it to the disk and renames it.

    Lightning's own implementation builds the file in memory and writes it to the system's temporary folder, which may
    be too small and is on another disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        path = Path(path)
        if not path.parent.is_dir():
            # Writing would create the folder again, and the run would go on apart from its earlier checkpoints.
            raise CheckpointError(
                f"{path.parent} was moved or removed while the run was writing to it: put it back, then ckpt_path=last "
                "resumes from its newest checkpoint"
            )
        try:
            with atomic_write(path, flush_to_disk=True) as partial:
                torch.save(checkpoint, partial)
        except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as a RuntimeError
            newest = newest_checkpoint(path.parent)
            remedy = f"ckpt_path=last resumes from {newest.name}" if newest else "there is no earlier checkpoint"
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"{path} cannot be written ({reason}): free some space; {remedy}") from error


def is_last_batch(trainer: L.Trainer) -> bool:
    """Return whether training ends with this batch, by ``loader.epochs``, ``trainer.max_steps`` or ``max_time``."""
    return all_batches_read(trainer) or trainer.global_step == trainer.max_steps or trainer.should_stop
