"""Images, captions and negatives of a training batch, shown by the loggers."""

import lightning as L
from lightning.pytorch.callbacks import Callback

from degla.data.batch import Batch
from degla.training.loggers import ShowsBatches


class BatchImages(Callback):
    """Shows a batch at the first step and every ``every_n_steps`` steps.

    Args:
        every_n_steps: optimizer steps from one batch that is shown to the next.
        num_images: images shown of a batch.
    """

    def __init__(self, every_n_steps: int = 1000, num_images: int = 8):
        self.every_n_steps = every_n_steps
        self.num_images = num_images
        self._last_step = -1

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Write the images and a table of the captions on rank 0."""
        step = trainer.global_step
        loggers = [logger for logger in trainer.loggers if isinstance(logger, ShowsBatches)]
        if not trainer.is_global_zero or not loggers or step % self.every_n_steps or step == self._last_step:
            return
        self._last_step = step
        images = batch.images[: self.num_images].cpu()
        captions = [sample.caption for sample in batch.samples[: self.num_images]]
        for logger in loggers:
            logger.log_batch(images=images, captions=captions, table=_table(batch, self.num_images), step=step)


def _table(batch: Batch, num_samples: int) -> str:
    """Return a Markdown table: each caption, and below it the negatives of this step."""
    lines = ["| image | kind | text |", "| --- | --- | --- |"]
    for number, sample in enumerate(batch.samples[:num_samples]):
        lines.append(f"| {number} | **caption** | {_cell(sample.caption)} |")
        lines += [f"| {number} | {slot.type} | {_cell(slot.text)} |" for slot in batch.slots[number] if slot]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
