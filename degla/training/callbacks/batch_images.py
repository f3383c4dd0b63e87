"""A look at what the model is fed: images, captions and negatives of a batch, in TensorBoard."""

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from degla.data.schema import Batch


class BatchImages(Callback):
    """Shows a batch at the first step and every so many steps.

    Args:
        every_n_steps: optimizer steps between pictures.
        num_images: images shown of a batch.
    """

    def __init__(self, every_n_steps: int = 1000, num_images: int = 8):
        self.every_n_steps = every_n_steps
        self.num_images = num_images
        self._shown = -1

    def on_train_batch_start(self, trainer, pl_module, batch: Batch, batch_idx: int) -> None:
        """Write images and a table of captions on rank 0."""
        step = trainer.global_step
        writers = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not trainer.is_global_zero or not writers or step % self.every_n_steps or step == self._shown:
            return
        self._shown = step
        for writer in writers:
            writer.add_images("batch/images", batch.images[: self.num_images].cpu(), step)
            writer.add_text("batch/captions", _table(batch, self.num_images), step)


def _table(batch: Batch, num_rows: int) -> str:
    """Markdown: each caption above the negatives that this step uses."""
    lines = ["| image | kind | text |", "| --- | --- | --- |"]
    for number, row in enumerate(batch.samples[:num_rows]):
        lines.append(f"| {number} | **caption** | {_cell(row.caption)} |")
        lines += [f"| {number} | {slot.type} | {_cell(slot.text)} |" for slot in batch.slots[number] if slot]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
