"""Find losses and gradients that are not finite, and stop the run or skip the step."""

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from degla.data.batch import Batch
from degla.errors import NonFiniteError
from degla.models import ClipModel
from degla.models.sharding import is_sharded

log = logging.getLogger(__name__)

_MAX_CONSECUTIVE_SKIPS = 20  # after so many skipped steps the weights themselves are the cause
_MAX_NAMED_SAMPLES = 5  # samples that a message names
_ADAPTER = ".lora_"  # part of the names of an adapter's matrices; then nothing else has a gradient
_PROJECTIONS = ("visual.proj", "text_projection")  # the last matrices of the two towers


class _MicroBatch(NamedTuple):
    """A batch of the current optimizer step, with the values of its terms."""

    batch: Batch
    terms: list[str]
    values: Tensor  # (number of terms,), means over all ranks

    @property
    def is_finite(self) -> bool:
        return bool(self.values.isfinite().all())


class NonFiniteGuard:
    """Checks the gradient before each optimizer step.

    It reads only the gradients of one-dimensional parameters, of the two projections and of adapters. Every layer has
    some of them, a non-finite value in a layer reaches them, and they are about 1 % of all gradients.

    Args:
        student: the model whose gradients are checked.
        skip: skip such a step; otherwise stop the run.
    """

    def __init__(self, student: ClipModel, skip: bool):
        self.student = student
        self.skip = skip
        self.num_skipped = 0
        self.has_skipped = False  # whether the current step is skipped
        self._consecutive_skips = 0
        self._window: list[_MicroBatch] = []  # of the current step

    def record_loss(self, batch: Batch, terms: Iterable[str], values: Tensor) -> None:
        """Keep a micro-batch until the optimizer step.

        Args:
            batch: this rank's samples.
            terms: names of the loss terms.
            values: ``(number of terms,)`` their means over all ranks.
        """
        self._window.append(_MicroBatch(batch, list(terms), values))

    def check(self, step: int, scaled: bool = False) -> None:
        """Check the gradient, or under a scaler the loss; drop the gradients where the step is skipped.

        Args:
            step: number of the optimizer step, for the message.
            scaled: whether ``precision=16-mixed`` scales the loss. Its scaler skips steps whose gradient is not
                finite, which is how it finds its scale, so only the loss is checked.

        Raises:
            NonFiniteError: a loss or gradient is not finite, and ``skip`` is False or 20 steps in a row were skipped.
        """
        window, self._window, self.has_skipped = self._window, [], False
        if _has_finite_losses(window) if scaled else self._has_finite_gradient():
            self._consecutive_skips = 0
            return
        culprit = "gradient" if _has_finite_losses(window) else "loss"
        problem = f"the {culprit} is not finite at step {step} ({self._causes(window)})"
        if self.skip and self._consecutive_skips < _MAX_CONSECUTIVE_SKIPS:
            self.has_skipped = True
            self._consecutive_skips += 1
            self.num_skipped += 1
            if not scaled:
                for parameter in self.student.parameters():
                    parameter.grad = None  # the optimizer ignores such parameters: no weight and no moment changes
            log.warning(f"{problem}: the step is skipped")
            return
        skipped = f", after {self._consecutive_skips} skipped steps" if self._consecutive_skips else ""
        raise NonFiniteError(
            f"{problem}{skipped}: lower optimizer.lr, set trainer.gradient_clip_val=1, "
            f"{'or ' if self.skip else ''}use precision=bf16-mixed{'' if self.skip else ', or non_finite=skip'}; "
            "ckpt_path=last resumes from the checkpoint before it"
        )

    def _has_finite_gradient(self) -> bool:
        gradients = [
            parameter.grad
            for name, parameter in self.student.named_parameters()
            if parameter.grad is not None and (parameter.ndim == 1 or name.endswith(_PROJECTIONS) or _ADAPTER in name)
        ]
        norm: Any = torch.nn.utils.get_total_norm(gradients)
        return bool((norm.full_tensor() if isinstance(norm, DTensor) else norm).isfinite())

    @torch.no_grad()
    def _causes(self, window: list[_MicroBatch]) -> str:
        """Return the values of the terms, and the samples of all ranks whose features are not finite."""
        values, samples = "", []
        for micro_batch in window:
            if not micro_batch.is_finite or len(window) == 1:
                pairs = zip(micro_batch.terms, micro_batch.values.tolist(), strict=True)
                values = ", ".join(f"{name} {value:.4g}" for name, value in pairs)
            samples += self._non_finite_samples(micro_batch.batch)
        names = sorted(set(_gather_lists(samples)))
        if not names:
            culprits = "no sample by itself"
        elif len(names) > _MAX_NAMED_SAMPLES:
            culprits = f"{len(names)} samples, among them {', '.join(names[:_MAX_NAMED_SAMPLES])}"
        else:
            culprits = f"samples {', '.join(names)}"
        return f"{values}; {culprits}" if values else culprits

    def _non_finite_samples(self, batch: Batch) -> list[str]:
        """Return the ids of the samples whose features are not finite.

        Samples are encoded one by one, because a text that is not finite also affects the texts packed with it.
        Under FSDP2 all ranks must call the model equally often, so there the batch is encoded at once.
        """
        size = max(1, len(batch.samples)) if is_sharded(self.student) else 1
        names: list[str] = []
        for start in range(0, len(batch.samples), size):
            part = slice(start, start + size)
            texts = torch.cat([batch.captions[part], batch.negatives[part].flatten(0, 1)])
            encoding = self.student(batch.images[part], texts)
            if not (encoding.image.isfinite().all() and encoding.text.isfinite().all()):
                names += [sample.id for sample in batch.samples[part]]
        return names


def _has_finite_losses(window: list[_MicroBatch]) -> bool:
    return all(micro_batch.is_finite for micro_batch in window)


def _gather_lists(items: list[str]) -> list[str]:
    """Return the items of all ranks, on every rank."""
    if not (dist.is_available() and dist.is_initialized()):
        return items
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]
