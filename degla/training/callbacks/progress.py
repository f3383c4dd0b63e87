"""The progress bar: over the whole run, since one Lightning epoch is the whole run here."""

from lightning.pytorch.callbacks import TQDMProgressBar


class ProgressBar(TQDMProgressBar):
    """Lightning's bar without the logger's version and without the number of an epoch that never ends.

    Args:
        refresh_rate: batches between redraws.
    """

    def __init__(self, refresh_rate: int = 10):
        super().__init__(refresh_rate=refresh_rate)

    @property
    def total_train_batches(self) -> int | float:
        """Batches of the whole run: the epoch's, or fewer where ``max_steps`` ends it before."""
        batches = super().total_train_batches
        if self.trainer.max_steps < 0:
            return batches
        return min(batches, self.trainer.max_steps * self.trainer.accumulate_grad_batches)

    def on_train_epoch_start(self, trainer, *_) -> None:
        """Name the bar."""
        super().on_train_epoch_start(trainer, *_)
        self.train_progress_bar.set_description("Training")

    def get_metrics(self, trainer, pl_module) -> dict:
        """What stands behind the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
