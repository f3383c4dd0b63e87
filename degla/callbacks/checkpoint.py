"""Checkpoints from which a run goes on as if it had never stopped."""

from copy import deepcopy
from pathlib import Path

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException


class RunCheckpoint(ModelCheckpoint):
    """The newest state of a run, as ``step-<n>.ckpt``: every so many steps, on SIGTERM and at the end.

    Args:
        dirpath: folder of the checkpoints.
        every_n_steps: optimizer steps between checkpoints.
        keep_all: keep every checkpoint; else only the newest, an old one being deleted when a new one is whole.
    """

    def __init__(self, dirpath: str, every_n_steps: int = 500, keep_all: bool = False):
        super().__init__(
            dirpath=dirpath,
            filename="step-{step:08d}",
            auto_insert_metric_name=False,
            every_n_train_steps=every_n_steps,
            save_top_k=-1 if keep_all else 1,
            save_on_train_epoch_end=False,
        )
        self._loops_of_last_step: dict | None = None

    def on_exception(self, trainer, pl_module, exception: BaseException) -> None:
        """Save on SIGTERM, which Lightning raises between batches; elsewhere a step may be half done.

        Not after the last step, for the reason given at ``on_train_batch_end``.
        """
        if isinstance(exception, SIGTERMException) and trainer.global_step and self._loops_of_last_step is None:
            self._save_now(trainer)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Save every so many steps, but the last step only when all is done.

        Lightning does nothing for a run that is resumed at its end: a kill during the last evaluation, or the
        export, would leave it without either for good.
        """
        loop = trainer.fit_loop.epoch_loop
        if loop._num_ready_batches_reached() or trainer.global_step == trainer.max_steps:
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
        weights have not moved since the window began. A validation cut short is left out: half its scores
        are gone, and the rest would pass for the whole.
        """
        if self._loops_of_last_step is not None:
            checkpoint["loops"]["fit_loop"] = self._loops_of_last_step
        if trainer.validating:
            for counts in ("total", "current"):
                seen = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"][counts]
                seen.update(dict.fromkeys(seen, 0))
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        pending = progress["current"]["processed"] % trainer.accumulate_grad_batches
        if trainer.fit_loop.epoch_loop._num_ready_batches_reached():  # a last window may be short
            return
        for counts in (progress["total"], progress["current"]):
            for stage in ("ready", "started", "processed", "completed"):
                counts[stage] -= pending

    def _save_checkpoint(self, trainer, filepath: str) -> None:
        # Lightning writes to the temporary folder and moves: not atomic where that is another file system.
        super()._save_checkpoint(trainer, filepath + ".part")
        if trainer.is_global_zero:
            Path(filepath + ".part").replace(filepath)
        trainer.strategy.barrier("checkpoint renamed")
        self._last_checkpoint_saved = filepath

    def _save_now(self, trainer) -> None:
        if self._last_global_step_saved != trainer.global_step and not trainer.fast_dev_run:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the most steps in ``folder``, None if there is none."""
    return max(folder.glob("step-*.ckpt"), default=None, key=lambda path: path.stem)
