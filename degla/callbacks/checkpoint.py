"""Checkpoints from which a run goes on as if it had never stopped."""

import logging
import os
import zipfile
from copy import deepcopy
from pathlib import Path

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from degla.errors import ConfigError

log = logging.getLogger(__name__)


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
        part, path = Path(filepath + ".part"), Path(filepath)
        try:
            super()._save_checkpoint(trainer, str(part))
            if trainer.is_global_zero:
                _to_disk(part)
                part.replace(path)
                _to_disk(path.parent)
        except (OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "writ" not in str(error):  # as torch's writer says it
                raise
            if trainer.is_global_zero:
                part.unlink(missing_ok=True)
            before = newest_checkpoint(path.parent)
            rest = f"with ckpt_path=last the run goes on from {before.name}" if before else "there is no earlier one"
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{path} cannot be written ({reason}): free some space; {rest}") from error
        trainer.strategy.barrier("checkpoint renamed")
        self._last_checkpoint_saved = filepath
        if trainer.is_global_zero and self.keep_last > 0:
            older = sorted(other for other in path.parent.glob("step-*.ckpt") if other.stem <= path.stem)
            for old in older[: -self.keep_last]:
                old.unlink()

    def _save_now(self, trainer) -> None:
        if self._last_global_step_saved != trainer.global_step and not trainer.fast_dev_run:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


def newest_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint of the most steps in ``folder``, None if there is none; broken ones are named."""
    for path in sorted(folder.glob("step-*.ckpt"), reverse=True):
        if broken := what_is_broken(path):
            log.warning(f"{path} is left out: {broken}")
        else:
            return path
    return None


def what_is_broken(checkpoint: Path) -> str:
    """Why a checkpoint cannot be trusted, "" where it can: torch keeps a CRC-32 with every record of the file."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            record = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        return f"it is cut short or no checkpoint ({error})"
    return f"record {record} does not have the checksum that it was written with" if record else ""


def _to_disk(path: Path) -> None:
    """Past the operating system's cache, so that a power cut cannot take it."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
