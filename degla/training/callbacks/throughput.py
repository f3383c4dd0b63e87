"""How fast the run goes."""

import time

from lightning.pytorch.callbacks import Callback


class Throughput(Callback):
    """Logs ``train/samples_per_second`` over all ranks, images a second of wall time between log steps."""

    def __init__(self):
        self._since: float | None = None
        self._rows = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx: int) -> None:
        """Count, and log where Lightning logs."""
        self._rows += len(batch.samples) * trainer.world_size
        if (batch_idx + 1) % trainer.log_every_n_steps:
            return
        now = time.perf_counter()
        if self._since is not None:  # the first stretch holds start-up and compilation
            pl_module.log("train/samples_per_second", self._rows / (now - self._since), batch_size=1)
        self._since, self._rows = now, 0
