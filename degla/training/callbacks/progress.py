"""The progress bar over the whole run, because one Lightning epoch is the whole run here."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar


class ProgressBar(TQDMProgressBar):
    """Lightning's bar without the logger's version and the number of the only epoch.

    Args:
        refresh_rate: batches from one redraw to the next.
    """

    def __init__(self, refresh_rate: int = 10):
        super().__init__(refresh_rate=refresh_rate)

    @property
    def total_train_batches(self) -> int | float:
        """Return the number of batches of the whole run, which ``max_steps`` may end earlier."""
        batches = super().total_train_batches
        if self.trainer.max_steps < 0:
            return batches
        return min(batches, self.trainer.max_steps * self.trainer.accumulate_grad_batches)

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Set the text before the bar."""
        super().on_train_epoch_start(trainer, *_)
        self.train_progress_bar.set_description("Training")

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return the values shown behind the bar."""
        metrics: dict[str, Any] = dict(super().get_metrics(trainer, pl_module))
        metrics.pop("v_num", None)
        return metrics
