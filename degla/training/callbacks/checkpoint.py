"""Checkpoints from which a run goes on as if it had never stopped."""

import os
from copy import deepcopy
from pathlib import Path

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from degla.artifacts import PARTIAL_SUFFIX, atomic_write, newest_checkpoint
from degla.errors import ConfigError


class RunCheckpoint(ModelCheckpoint):
    """The newest state of a run, as ``step-<n>.ckpt``: every so many steps, on SIGTERM and at the end.

    A checkpoint appears whole or not at all, and an older one goes only when a newer one is on the disk.

    Args:
        dirpath: folder of the checkpoints.
        every_n_steps: optimizer steps between checkpoints.
        keep_last: how many of the newest are kept; -1 keeps all.

    Raises:
        ConfigError: ``keep_last`` is 0; later, a checkpoint cannot be written.
    """

    def __init__(self, dirpath: str, every_n_steps: int = 500, keep_last: int = 2):
        if keep_last == 0 or keep_last < -1:
            raise ConfigError(f"callbacks.checkpoint.keep_last={keep_last} must be 1 or more, or -1 to keep all")
        super().__init__(
            dirpath=dirpath,
            filename="step-{step:08d}",
            auto_insert_metric_name=False,
            every_n_train_steps=every_n_steps,
            save_top_k=-1,  # we delete, see below
            save_on_train_epoch_end=False,
            enable_version_counter=False,  # one that was damaged is written over when its step comes again
        )
        self.keep_last = keep_last
        self._loops_of_last_step: dict | None = None

    def setup(self, trainer, pl_module, stage: str) -> None:
        """Write past Lightning's temporary folder; clear away what a kill left half written."""
        super().setup(trainer, pl_module, stage)
        trainer.strategy.checkpoint_io = _AtomicCheckpointIO()
        if trainer.is_global_zero:
            for part in Path(self.dirpath).glob(f"*{PARTIAL_SUFFIX}"):
                part.unlink()

    def on_train_start(self, trainer, pl_module) -> None:
        """All ranks go on from one step, or not at all.

        Raises:
            ConfigError: this rank found another checkpoint than the first.
        """
        super().on_train_start(trainer, pl_module)
        step = trainer.strategy.broadcast(trainer.global_step)
        if step != trainer.global_step:
            raise ConfigError(
                f"rank {trainer.global_rank} goes on from step {trainer.global_step}, rank 0 from {step}: they see "
                "different files; set ckpt_path to one step-*.ckpt that all see"
            )
        if step:
            self._last_global_step_saved = step

    def on_exception(self, trainer, pl_module, exception: BaseException) -> None:
        """Save on SIGTERM, which Lightning raises between batches; elsewhere a step may be half done."""
        if isinstance(exception, SIGTERMException) and trainer.global_step:
            self._save_now(trainer)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Save every so many steps, but the last step only when all is done.

        Lightning does nothing for a run that is resumed at its end: a kill during the last evaluation, or the
        export, would leave it without either for good.
        """
        if is_last_batch(trainer):
            self._loops_of_last_step = deepcopy(trainer.fit_loop.state_dict())
        else:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_end(self, trainer, pl_module) -> None:
        """Save the end of the run: Lightning calls checkpoints after all other callbacks.

        The loops are saved as they were after the last step: by now they count as run to their end, and a
        checkpoint that says so trains no further when ``trainer.max_steps`` is raised.
        """
        self._save_now(trainer)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        """Forget what was begun and cannot be finished by a resumed run.

        The micro-batches of an unfinished accumulation are read again: their gradients are not saved, and
        weights have not moved since the window began.
        """
        if self._loops_of_last_step is not None:
            checkpoint["loops"]["fit_loop"] = self._loops_of_last_step
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        pending = progress["current"]["processed"] % trainer.accumulate_grad_batches
        if trainer.fit_loop.epoch_loop._num_ready_batches_reached():  # a last window may be short
            return
        for counts in (progress["total"], progress["current"]):
            for stage in ("ready", "started", "processed", "completed"):
                counts[stage] -= pending

    def _save_checkpoint(self, trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        if trainer.is_global_zero and self.keep_last > 0:
            path = Path(filepath)
            older = sorted(other for other in path.parent.glob("step-*.ckpt") if other.stem <= path.stem)
            for old in older[: -self.keep_last]:
                old.unlink()

    def _save_now(self, trainer) -> None:
        if self._last_global_step_saved != trainer.global_step and not trainer.fast_dev_run:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


class _AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name beside its target, flushes it to the disk and renames it.

    Lightning's own implementation holds the file in memory, writes it to the system's temporary folder and moves it
    from there.
    """

    def save_checkpoint(self, checkpoint: dict, path: str | os.PathLike, storage_options=None) -> None:
        path = Path(path)
        try:
            with atomic_write(path, flush_to_disk=True) as partial:
                torch.save(checkpoint, partial)
        except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as a RuntimeError
            before = newest_checkpoint(path.parent)
            rest = f"with ckpt_path=last the run goes on from {before.name}" if before else "there is no earlier one"
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"{path} cannot be written ({reason}): free some space; {rest}") from error


def is_last_batch(trainer) -> bool:
    """Whether training ends with this batch: the rows, ``trainer.max_steps`` or ``trainer.max_time`` are used up."""
    return (
        trainer.fit_loop.epoch_loop._num_ready_batches_reached()
        or trainer.global_step == trainer.max_steps
        or trainer.should_stop
    )
