"""Private names of Lightning, read in version 2.6.6."""

import signal
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint


def disable_signal_handlers(trainer: L.Trainer) -> None:
    """Keep Lightning from installing its handlers of SIGTERM and of SLURM's signals.

    ``Trainer._signal_connector.register_signal_handlers``; Lightning has no setting for it, and its handler sends a
    collective from within the signal, on one rank alone.
    Source: https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/pytorch/trainer/connectors/signal_connector.py
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def request_stop(trainer: L.Trainer, stop: bool) -> None:
    """Have Lightning raise ``SIGTERMException`` before the next batch, or withdraw such a request.

    ``Trainer._signal_connector.received_sigterm``, which ``Trainer.received_sigterm`` only reads.
    Source: https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/pytorch/trainer/connectors/signal_connector.py

    Args:
        trainer: of the run.
        stop: whether to stop.
    """
    trainer._signal_connector.received_sigterm = stop


def disable_sigterm_broadcast(trainer: L.Trainer) -> None:
    """Keep Lightning from asking all ranks for a signal at the start of each batch.

    ``_TrainingEpochLoop._broadcast_sigterm_tensor``; our own callback asks over the CPU, once per batch.
    Source: https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/pytorch/loops/training_epoch_loop.py
    """
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def all_batches_read(trainer: L.Trainer) -> bool:
    """Return whether the training loader has given its last batch.

    ``_TrainingEpochLoop._num_ready_batches_reached``; the public ``is_last_batch`` is set later, after callbacks ran.
    Source: https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/pytorch/loops/training_epoch_loop.py
    """
    return bool(trainer.fit_loop.epoch_loop._num_ready_batches_reached())


def batches_done(trainer: L.Trainer) -> int:
    """Return how many batches a resumed run had trained on when its checkpoint was written.

    ``_FitLoop.restarting`` and ``_TrainingEpochLoop.batch_progress``, whose classes are private.
    Source: https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/pytorch/loops/fit_loop.py

    Returns:
        0 where the run was not resumed.
    """
    loop: Any = trainer.fit_loop
    return batches_processed(trainer) if loop.restarting else 0


def batches_processed(trainer: L.Trainer) -> int:
    """Return how many batches the run has trained on, those before it was resumed included.

    ``_TrainingEpochLoop.batch_progress``, whose class is private.
    Source: https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/pytorch/loops/training_epoch_loop.py
    """
    loop: Any = trainer.fit_loop
    return int(loop.epoch_loop.batch_progress.current.processed)


def batch_progress(checkpoint: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return the counts of batches in a checkpoint, which may be changed in place.

    ``checkpoint["loops"]``, whose layout is that of ``_FitLoop.state_dict``.
    Source: https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/pytorch/loops/progress.py

    Returns:
        ``total`` and ``current``, each with ``ready``, ``started``, ``processed`` and ``completed``.
    """
    progress: dict[str, dict[str, int]] = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    return progress


def last_saved_step(callback: ModelCheckpoint) -> int:
    """Return the optimizer step of the newest checkpoint that ``callback`` wrote.

    ``ModelCheckpoint._last_global_step_saved``.
    Source: https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/pytorch/callbacks/model_checkpoint.py
    """
    return callback._last_global_step_saved


def set_last_saved_step(callback: ModelCheckpoint, step: int) -> None:
    """Tell ``callback`` that a step has been saved already, so that it does not save it again.

    ``ModelCheckpoint._last_global_step_saved``.
    Source: https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/pytorch/callbacks/model_checkpoint.py

    Args:
        callback: the callback that writes checkpoints.
        step: optimizer steps.
    """
    callback._last_global_step_saved = step


def save_checkpoint_now(callback: ModelCheckpoint, trainer: L.Trainer) -> None:
    """Write a checkpoint under the name that ``callback`` gives to this step.

    ``ModelCheckpoint._save_topk_checkpoint``; the public ``Trainer.save_checkpoint`` uses neither the callback's
    names nor its counts.
    Source: https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/pytorch/callbacks/model_checkpoint.py

    Args:
        callback: the callback that writes checkpoints.
        trainer: of the run.
    """
    callback._save_topk_checkpoint(trainer, callback._monitor_candidates(trainer))


def kill_children(trainer: L.Trainer) -> None:
    """Kill the processes that Lightning started for this run, and stop watching them.

    ``_Launcher.kill`` and ``_SubprocessScriptLauncher.procs``, whose classes are private. A thread of Lightning's
    reads ``procs`` and kills the first process as well once one of them has ended.
    Source: https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/pytorch/strategies/launchers/subprocess_script.py
    """
    launcher: Any = trainer.strategy.launcher
    if launcher is not None:
        launcher.kill(signal.SIGKILL)
        launcher.procs.clear()
