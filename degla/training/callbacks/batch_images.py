"""Samples of a training batch, shown by the loggers: image, caption and negatives with the student's scores."""

from typing import Annotated

import lightning as L
from lightning.pytorch.callbacks import Callback

from degla.bounds import bounded, whole
from degla.data.batch import Batch
from degla.evaluation import Encoder
from degla.models import ClipModel
from degla.models.sharding import is_sharded
from degla.training.loggers import ShowsSamples
from degla.training.module import DeGLAModule
from degla.training.panels import ScoredText, draw_panel, highest


class BatchImages(Callback):
    """Shows samples of a batch at the first step and every ``every_n_steps`` steps, each with its scores.

    A score is the student's cosine similarity of the image and a text before the step. Under FSDP2 there are no
    scores, because every rank would have to take part in the forward pass.

    Args:
        every_n_steps: optimizer steps from one batch that is shown to the next.
        num_images: samples shown of a batch.
    """

    @bounded("callbacks.batch_images")
    def __init__(self, every_n_steps: Annotated[int, whole(1)] = 1000, num_images: Annotated[int, whole(1)] = 8):
        self.every_n_steps = every_n_steps
        self.num_images = num_images
        self._last_step = -1

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Write one panel per sample and a table of the texts on rank 0."""
        step = trainer.global_step
        loggers = [logger for logger in trainer.loggers if isinstance(logger, ShowsSamples)]
        if not trainer.is_global_zero or not loggers or step % self.every_n_steps or step == self._last_step:
            return
        assert isinstance(pl_module, DeGLAModule)
        self._last_step = step
        samples = scored_samples(pl_module.student, batch, self.num_images)
        images = batch.images[: self.num_images].cpu()
        panels = [draw_panel(image, texts) for image, texts in zip(images, samples, strict=True)]
        for logger in loggers:
            logger.log_samples(panels=panels, table=_table(samples), step=step)


def scored_samples(student: ClipModel, batch: Batch, num_samples: int) -> list[list[ScoredText]]:
    """Return the texts of the first samples, the caption first, each with its score.

    The student is in evaluation mode meanwhile, and neither gradients nor random numbers are involved. So training
    gives the same weights with and without it.

    Args:
        student: the model on this rank, not wrapped for DDP.
        batch: on the student's device.
        num_samples: how many samples at most.
    """
    samples = [
        [ScoredText("caption", sample.caption, None), *(ScoredText(n.type, n.text, None) for n in slots if n)]
        for sample, slots in zip(batch.samples[:num_samples], batch.slots, strict=False)
    ]
    if is_sharded(student) or not samples:
        return samples
    encoder = Encoder(student)
    images = encoder.encode_images(batch.images[:num_samples])
    features = encoder.encode_texts([text.text for texts in samples for text in texts])
    scored = []
    for image, texts, block in zip(images, samples, features.split([len(texts) for texts in samples]), strict=True):
        scores = (block @ image).tolist()
        scored.append([text._replace(score=score) for text, score in zip(texts, scores, strict=True)])
    return scored


def _table(samples: list[list[ScoredText]]) -> str:
    """Return a Markdown table: each caption, and below it the negatives of this step; the highest score is bold."""
    lines = ["| image | kind | score | text |", "| --- | --- | --- | --- |"]
    for number, texts in enumerate(samples):
        marked = highest(texts)
        for index, text in enumerate(texts):
            kind = text.kind if index else f"**{text.kind}**"
            score = "" if text.score is None else f"{text.score:.3f}"
            lines.append(f"| {number} | {kind} | {f'**{score}**' if index == marked else score} | {_cell(text.text)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
