"""The LightningModule: student, teacher and objective; it logs, ``compute_losses`` computes."""

from collections.abc import Callable, Iterator
from typing import Literal

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from degla.data.schema import Batch, Chunk
from degla.data.text_features import TextFeatures
from degla.errors import ConfigError
from degla.losses import Features, LossTerms, Objective
from degla.models import ClipModel, PackedTexts, Teacher
from degla.training.nonfinite import NonFiniteGuard
from degla.training.optim import name_state, number_state
from degla.training.validation import Embedded, embed, validation_metrics


class DeGLAModule(L.LightningModule):
    """Fine-tunes ``student`` by ``objective``, next to a ``teacher`` where the objective reads one.

    Args:
        student: the model that learns.
        objective: terms and weights.
        teacher: None where no term of the objective reads it.
        optimizer: makes the optimizer of the student.
        scheduler: makes the learning-rate schedule of the optimizer.
        non_finite: ``stop`` the run where a loss or gradient is not finite, or ``skip`` the step.
        teacher_texts: where a frozen teacher's text features are kept; None makes them anew in each step.
        config: plain nested dict of the run, kept in checkpoints and shown as TensorBoard's hparams.
    """

    def __init__(
        self,
        student: ClipModel,
        objective: Objective,
        teacher: Teacher | None,
        optimizer: Callable[[ClipModel], Optimizer],
        scheduler: Callable,
        non_finite: Literal["stop", "skip"] = "stop",
        teacher_texts: TextFeatures | None = None,
        config: dict | None = None,
    ):
        super().__init__()
        self.student = student
        self.objective = objective
        self.teacher = teacher
        self.teacher_texts = teacher_texts
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.save_hyperparameters(config or {})
        self.guard = NonFiniteGuard(student, skip=non_finite == "skip")
        self._validated: list[Embedded] = []
        self.validated_step: int | None = None  # steps taken when the student was last validated

    def compute_losses(self, batch: Batch) -> LossTerms:
        """Encode a batch with student and teacher and weigh the terms; no logging, no trainer.

        Raises:
            ConfigError: the objective cannot work on these rows; its message says what to set.
        """
        student = encode(self.student, batch)
        teacher = self._teach(batch) if self.objective.uses_teacher else None
        try:
            return self.objective(student, teacher)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def _teach(self, batch: Batch) -> Features:
        """The teacher's features, of texts only where they are not known."""
        if batch.teacher_texts is None:
            features = encode(self.teacher, batch)
            if self.teacher_texts is not None:
                known = torch.cat([features.text[:, None], features.negatives], dim=1)
                self.teacher_texts.write(batch.text_numbers, known)
            return features
        images = [self.teacher.encode_image(batch.images[rows]) for rows, _ in chunks(batch)]
        scale = self.teacher.model.logit_scale()
        known = batch.teacher_texts
        return Features(torch.cat(images), known[:, 0], known[:, 1:], batch.negative_mask, scale)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step; logs the means over all ranks."""
        losses = self.compute_losses(batch)
        values = torch.stack([losses.total.detach(), *losses.terms.values()])
        if self.trainer.world_size > 1:
            values = self.all_gather(values).mean(0)
        self.guard.note(batch, losses.terms, values[1:])
        names = ["train/loss", *(f"train/loss_{name}" for name in losses.terms)]
        self.log_dict(dict(zip(names, values, strict=True)), batch_size=len(batch.samples))
        self.log("loss", values[0], prog_bar=True, logger=False, batch_size=len(batch.samples))
        return losses.total

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Stop or skip where the gradient is not finite."""
        with self.trainer.precision_plugin.forward_context():  # rows are looked at in the precision they were in
            self.guard.check(self.global_step, scaled=self.trainer.precision == "16-mixed")
        if self.guard.skip:
            self.log("train/skipped_steps", float(self.guard.num_skipped), batch_size=1)

    def on_train_batch_end(self, outputs, batch: Batch, batch_idx: int) -> None:
        """Log what moves with the optimizer."""
        with torch.no_grad():
            scale = self.student.clip.logit_scale
            scale = scale.full_tensor() if hasattr(scale, "full_tensor") else scale
            self.log("train/logit_scale", scale.exp().squeeze(), batch_size=1)
        if self.teacher is not None and self.teacher.decay is not None:
            self.log("teacher/decay", self.teacher.decay, batch_size=1)

    def configure_optimizers(self) -> dict:
        """The student's optimizer and its schedule, counted in optimizer steps."""
        optimizer = self.make_optimizer(self.student)
        scheduler = self.make_scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Follow the optimizer from here on; restoring it under FSDP2 takes a dummy step, which must not count."""
        self.optimizers(use_pl_optimizer=False).register_step_post_hook(self._after_optimizer_step)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Key the optimizer's state by parameter names, so that any strategy can resume it."""
        checkpoint["quick_gelu"] = self.student.config["quick_gelu"]  # so that no reader has to guess
        checkpoint["preprocess"] = dict(self.student.preprocess)
        if self._is_sharded and not self.trainer.is_global_zero:
            return  # only rank 0 holds the gathered state
        states = checkpoint["optimizer_states"]
        names = [name for name, _ in self.named_parameters()] if self._is_sharded else self._optimizer_order()
        checkpoint["optimizer_states"] = [name_state(state, names) for state in states]

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Back to this run's numbers; under FSDP2 Lightning has loaded the state by name already."""
        if not self._is_sharded:
            names = self._optimizer_order()
            checkpoint["optimizer_states"] = [number_state(state, names) for state in checkpoint["optimizer_states"]]

    def _optimizer_order(self) -> list[str]:
        """Parameter names in the order in which the optimizer numbers them."""
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        groups = self.make_optimizer(self.student).param_groups
        return [names[id(parameter)] for group in groups for parameter in group["params"]]

    @property
    def _is_sharded(self) -> bool:
        return isinstance(self.trainer.strategy, ModelParallelStrategy)

    def _after_optimizer_step(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        """Clamp the temperature and move the teacher: once for each step that was really taken.

        A hook of the optimizer and not of Lightning: neither micro-batches of an accumulation nor steps
        that the fp16 scaler skips get here. A fused optimizer is called for skipped steps too and carries
        ``found_inf`` then.
        """
        if self.guard.has_skipped or bool(getattr(optimizer, "found_inf", False)):
            return
        self.student.clamp_logit_scale()
        if self.teacher is not None:
            self.teacher.update(self.student)

    def configure_model(self) -> None:
        """Shard student and teacher alike under ``strategy=fsdp2``; nothing to do otherwise."""
        if not self._is_sharded or hasattr(self.student, "reshard"):
            return
        from degla.models.sharding import shard

        dtype = torch.bfloat16 if "bf16" in str(self.trainer.precision) else torch.float32
        for model in filter(None, (self.student, self.teacher and self.teacher.model)):
            shard(model, self.device_mesh["data_parallel"], dtype)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Embed the batch with the student."""
        features = encode(self.student, batch)
        self._validated.append(embed(features, [row.image_path for row in batch.samples], batch.slots))

    def on_validation_epoch_end(self) -> None:
        """Log gain and forgetting at the number of steps taken: 0 is the untouched student."""
        metrics = {f"val/{name}": value for name, value in validation_metrics(self._gathered()).items()}
        self._validated.clear()
        self.validated_step = self.global_step
        for logger in self.loggers:
            if self.trainer.sanity_checking and isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(self.hparams, metrics)
            logger.log_metrics(metrics, step=self.global_step)
        if not self.trainer.sanity_checking:  # for callbacks that watch a metric; every rank holds the same
            self.log_dict(metrics, logger=False, batch_size=1)

    def _gathered(self) -> list[Embedded]:
        """The batches of all ranks, on every rank."""
        if self.trainer.world_size == 1:
            return self._validated
        parts = [None] * self.trainer.world_size
        dist.all_gather_object(parts, self._validated)
        return [batch for part in parts for batch in part]


def encode(model: ClipModel | Teacher, batch: Batch) -> Features:
    """Embed a batch: one image forward, one text forward for captions and negatives together.

    A batch of several chunks is encoded chunk by chunk and, for the gradient, once more in the backward pass:
    the activations of one chunk are all that is held, and the gradient is that of the whole batch.

    Args:
        model: student (with gradient) or teacher (without).
        batch: on the model's device.
    """
    parts = []
    for rows, texts in chunks(batch):
        images = batch.images[rows]
        if len(batch.chunks) > 1 and torch.is_grad_enabled() and isinstance(model, ClipModel):
            image, text, logit_scale = checkpoint(model, images, texts, use_reentrant=False)
        else:
            image, text, logit_scale = model(images, texts)
        captions, negatives = text.split([len(images), len(text) - len(images)])
        parts.append((image, captions, negatives.reshape(len(images), batch.negatives.shape[1], text.shape[1])))
    image, text, negatives = (torch.cat(part) if len(parts) > 1 else part[0] for part in zip(*parts, strict=True))
    return Features(image, text, negatives, batch.negative_mask, logit_scale)


def chunks(batch: Batch) -> Iterator[tuple[slice, Tensor | PackedTexts]]:
    """The rows that are encoded together, and their texts: captions, then negatives."""
    for chunk in batch.chunks or [Chunk(0, len(batch.images), None)]:
        rows = slice(chunk.start, chunk.stop)
        yield rows, chunk.packed or torch.cat([batch.captions[rows], batch.negatives[rows].flatten(0, 1)])
