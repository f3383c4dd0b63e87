"""The LightningModule: student, teacher and objective.

Shapes: B samples of a batch on one rank, K negatives a sample, D embedding size.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from degla.data.batch import Batch
from degla.data.text_features import TextFeatures
from degla.losses import Features, LossTerms, Objective
from degla.models import ClipModel, Teacher
from degla.models.sharding import is_sharded, shard
from degla.training import resume
from degla.training.encoding import encode_batch, encoding_chunks, without_negatives
from degla.training.loggers import main_settings
from degla.training.nonfinite import NonFiniteGuard
from degla.training.optim import name_state, number_state
from degla.training.validation import CaptionChoice, RetrievalRecall, add_batch, validation_values


class DeGLAModule(L.LightningModule):
    """Fine-tunes ``student`` with ``objective``, beside a ``teacher`` where the objective reads one.

    ``compute_losses`` computes; ``training_step`` logs, and keeps the teacher's text features where that is set.

    Args:
        student: the model that learns.
        objective: terms and weights.
        teacher: None where no term of the objective reads it.
        optimizer: makes the optimizer of the student.
        scheduler: makes the learning-rate schedule of the optimizer.
        non_finite: ``stop`` the run where a loss or gradient is not finite, or ``skip`` the step.
        teacher_texts: store of a frozen teacher's text features; None computes them again in each step.
        negative_types: types of the negatives of the validation samples.
        data_identity: identity of the training data, kept in checkpoints.
        config: plain nested dict of the run, kept in checkpoints; its main settings go to the loggers.
    """

    def __init__(
        self,
        student: ClipModel,
        objective: Objective,
        teacher: Teacher | None,
        optimizer: Callable[[ClipModel], Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler],
        non_finite: Literal["stop", "skip"] = "stop",
        teacher_texts: TextFeatures | None = None,
        negative_types: Sequence[str] = (),
        data_identity: resume.DataIdentity | None = None,
        config: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.student = student
        self.objective = objective
        self.teacher = teacher
        self.teacher_texts = teacher_texts
        self.data_identity = data_identity or resume.DataIdentity(None, None)
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.save_hyperparameters(config or {}, logger=False)  # loggers get the main settings only
        self.guard = NonFiniteGuard(student, skip=non_finite == "skip")
        self.retrieval = RetrievalRecall()
        self.caption_choice = CaptionChoice(negative_types)
        self.validated_step: int | None = None  # optimizer steps taken when the student was last validated

    def compute_losses(self, batch: Batch, teacher: Features | None = None) -> LossTerms:
        """Encode a batch with student and teacher, and return the weighted sum and its terms.

        It neither logs nor writes anything, and needs no trainer.

        Args:
            batch: on the device of the module.
            teacher: the teacher's features of this batch; None computes them where the objective reads a teacher.

        Raises:
            DeglaError: the objective cannot work with these samples; the message says what to set.
        """
        if not self.objective.uses_negatives and batch.negatives.shape[1]:
            batch = without_negatives(batch)  # their texts would cost most of the step, and no term reads them
        student = encode_batch(self.student, batch)
        if teacher is None and self.objective.uses_teacher:
            teacher = self._teacher_features(batch)
        return self.objective(student=student, teacher=teacher)

    def _teacher_features(self, batch: Batch) -> Features:
        """Encode a batch with the teacher; texts whose features the batch already holds are not encoded again."""
        assert self.teacher is not None
        stored = batch.teacher_texts
        if stored is None:
            return encode_batch(self.teacher, batch._replace(negative_images=None))
        images = [self.teacher.encode_image(batch.images[part]) for part, _ in encoding_chunks(batch)]
        return Features(
            image=torch.cat(images),
            text=stored[:, 0],
            negatives=stored[:, 1:],
            negative_mask=batch.negative_mask,
            logit_scale=self.teacher.model.logit_scale(),
        )

    def _store_teacher_texts(self, batch: Batch, teacher: Features) -> None:
        """Write text features that were computed in this step to the store, for later epochs and runs."""
        if self.teacher_texts is not None and batch.teacher_texts is None and batch.text_numbers is not None:
            texts = torch.cat([teacher.text[:, None], teacher.negatives], dim=1)
            self.teacher_texts.write(batch.text_numbers, texts)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed an adapter's dropout by batch and rank, so that a resumed run drops what the run would have dropped."""
        if self.student.lora is not None and self.student.lora.dropout:
            seeds = np.random.SeedSequence([self.hparams.get("seed", 0), batch_idx, self.global_rank])
            torch.manual_seed(int(seeds.generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the loss ``()`` of a batch, and log the means over all ranks."""
        teacher = self._teacher_features(batch) if self.objective.uses_teacher else None
        losses = self.compute_losses(batch, teacher)
        if teacher is not None:
            self._store_teacher_texts(batch, teacher)
        values = torch.stack([losses.total.detach(), *losses.terms.values()])
        if self.trainer.world_size > 1:
            gathered = self.all_gather(values)
            assert isinstance(gathered, Tensor)
            values = gathered.mean(0)
        self.guard.record_loss(batch, losses.terms, values[1:])
        names = ["train/loss", *(f"train/loss_{name}" for name in losses.terms)]
        self.log_dict(dict(zip(names, values, strict=True)), batch_size=len(batch.samples))
        self.log("loss", values[0], prog_bar=True, logger=False, batch_size=len(batch.samples))
        return losses.total

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Stop the run, or skip the step, where the gradient is not finite."""
        self._read_verdict()
        scaled = self.trainer.precision == "16-mixed"
        if not scaled and self.guard.can_defer(optimizer):
            self.guard.defer(self.global_step, optimizer)
        else:
            with self.trainer.precision_plugin.forward_context():
                self.guard.check(self.global_step, scaled=scaled)
        if self.guard.skip:
            self.log("train/skipped_steps", self.guard.skipped_steps(), batch_size=1)

    def _read_verdict(self) -> None:
        """Act on the last step if its gradient was not finite and the host has not read this yet."""
        # The guard may encode samples again, and must do so in the precision in which they failed.
        with self.trainer.precision_plugin.forward_context():
            self.guard.read_verdict()

    def on_validation_start(self) -> None:
        """Read the verdict on the last step before the student is measured."""
        self._read_verdict()

    def on_train_epoch_end(self) -> None:
        """Read the verdict on the last step of the run, before anything is measured, exported or saved."""
        self._read_verdict()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log the logit scale and the teacher's decay after the step."""
        with torch.no_grad():
            scale: Tensor = self.student.clip.logit_scale
            # A sharded model keeps its own parameters whole after a forward pass, so the tensor has to be asked.
            if isinstance(scale, DTensor):
                scale = scale.full_tensor()
            self.log("train/logit_scale", scale.exp().squeeze(), batch_size=1)
        if self.teacher is not None and self.teacher.decay is not None:
            # Lightning would copy a number to the device, and wait for it.
            self.log("teacher/decay", torch.full((), self.teacher.decay, device=self.device), batch_size=1)

    def configure_optimizers(self) -> Any:
        """Return the student's optimizer and its schedule, which counts optimizer steps."""
        optimizer = self.make_optimizer(self.student)
        scheduler = self.make_scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Log the main settings, apply them to a restored optimizer, and attach the hook that moves the teacher.

        Restoring an optimizer under FSDP2 takes a dummy step, which must not move the teacher. So the hook is not
        attached before the optimizer is restored.
        """
        for logger in self.loggers:
            logger.log_hyperparams(main_settings(self.hparams))
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, Optimizer)
        if self.global_step:
            scheduler: Any = self.lr_schedulers()
            resume.apply_optimizer_settings(optimizer, scheduler, self.make_optimizer(self.student).param_groups)
        optimizer.register_step_post_hook(self._after_optimizer_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Key the optimizer's state by parameter names, so that every strategy can resume it."""
        self._read_verdict()
        checkpoint[resume.KEY] = {"format": resume.FORMAT, "data": list(self.data_identity)}
        checkpoint["quick_gelu"] = self.student.config["quick_gelu"]  # so that readers need not guess
        checkpoint["preprocess"] = dict(self.student.preprocess)
        sharded = is_sharded(self.student)
        if sharded and not self.trainer.is_global_zero:
            return  # only rank 0 holds the gathered state
        states = checkpoint["optimizer_states"]
        names = [name for name, _ in self.named_parameters()] if sharded else self.trained_parameters()
        checkpoint["optimizer_states"] = [name_state(state, names) for state in states]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make weights and optimizer state fit this run; under FSDP2 Lightning has loaded them by name already."""
        if is_sharded(self.student):
            return
        resume.adapt_weights(checkpoint, self.state_dict())
        names = self.trained_parameters()
        groups = self.make_optimizer(self.student).param_groups
        states = [resume.adapt_optimizer(state, names, groups) for state in checkpoint["optimizer_states"]]
        checkpoint["optimizer_states"] = states
        resume.adapt_schedulers(checkpoint)
        checkpoint["optimizer_states"] = [number_state(state, names) for state in states]

    def trained_parameters(self) -> list[str]:
        """Return the names of the parameters that the optimizer updates, in the order in which it numbers them."""
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        groups = self.make_optimizer(self.student).param_groups
        return [names[id(parameter)] for group in groups for parameter in group["params"]]

    def _after_optimizer_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Clamp the logit scale and move the teacher, once for each step that was taken.

        It is a hook of the optimizer, because Lightning's hooks also run for micro-batches of an accumulation and for
        steps that the fp16 scaler skips. A fused optimizer is called for skipped steps too, and then holds
        ``found_inf``.
        """
        skipped = self.guard.take_flag(optimizer)
        if skipped is None and (self.guard.has_skipped or bool(getattr(optimizer, "found_inf", False))):
            return
        self.student.clamp_logit_scale()
        if self.teacher is not None:
            self.teacher.update(self.student, skipped)

    def configure_model(self) -> None:
        """Shard student and teacher alike under ``strategy=fsdp2``; do nothing under other strategies."""
        if self.device_mesh is None or is_sharded(self.student):
            return
        dtype = torch.bfloat16 if "bf16" in str(self.trainer.precision) else torch.float32
        models = [self.student] if self.teacher is None else [self.student, self.teacher.model]
        for model in models:
            shard(model, self.device_mesh["data_parallel"], dtype)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Embed the batch with the student, and add it to the metrics."""
        add_batch(self.retrieval, self.caption_choice, encode_batch(self.student, batch), batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics at the number of steps taken; step 0 is the student before training."""
        metrics = validation_values(self.retrieval, self.caption_choice)
        self.validated_step = self.global_step
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.global_step)
        if not self.trainer.sanity_checking:  # for callbacks that watch a metric; every rank holds the same value
            self.log_dict(metrics, logger=False, batch_size=1)
