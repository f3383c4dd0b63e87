"""Find losses and gradients that are not finite, and stop the run or skip the step."""

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adam, Optimizer

from degla.data.batch import Batch
from degla.errors import NonFiniteError
from degla.models import ClipModel
from degla.models.sharding import is_sharded

log = logging.getLogger(__name__)

_MAX_CONSECUTIVE_SKIPS = 20  # after so many skipped steps the weights themselves are the cause
_MAX_NAMED_SAMPLES = 5  # samples that a message names
_ADAPTER = ".lora_"  # part of the names of an adapter's matrices; then nothing else has a gradient
_DEFERRING_DEVICES = ("cuda",)  # devices that work while the host goes on
_PROJECTIONS = ("visual.proj", "text_projection")  # the last matrices of the two towers


class _MicroBatch(NamedTuple):
    """A batch of the current optimizer step, with the values of its terms."""

    batch: Batch
    terms: list[str]
    values: Tensor  # (number of terms,), means over all ranks

    @property
    def is_finite(self) -> bool:
        return bool(self.values.isfinite().all())


class _HostCopy:
    """A copy of a ``()`` tensor in the memory of the host, which can be read without waiting for later work.

    Args:
        value: on any device.
    """

    def __init__(self, value: Tensor):
        on_gpu = value.device.type == "cuda"
        self._copy = torch.empty((), dtype=value.dtype, pin_memory=on_gpu)
        self._copy.copy_(value, non_blocking=on_gpu)
        self._event: Any = None
        if on_gpu:
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> bool:
        """Return the value, after the work that was queued before the copy."""
        if self._event is not None:
            self._event.synchronize()
        return bool(self._copy.numpy())


class _Deferred(NamedTuple):
    """A step that was taken before the host has read whether its gradient is finite."""

    step: int
    window: list[_MicroBatch]
    is_skipped: Tensor  # () float32 on the device, 1 where the device skips the step
    verdict: _HostCopy


class NonFiniteGuard:
    """Checks the gradient before each optimizer step.

    On a GPU the verdict is read one step later, because reading it would wait for all work that is queued there. The
    optimizer's kernel then skips the step by itself.

    The guard reads only the gradients of one-dimensional parameters, of the two projections and of adapters. Every
    layer has some of them, a non-finite value in a layer reaches them, and they are about 1 % of all gradients.

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
        self._deferred: _Deferred | None = None  # the last step, until its verdict is read

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
        if _has_finite_losses(window) if scaled else bool(self._is_finite()):
            self._consecutive_skips = 0
            return
        self._refuse(step, window)
        self.has_skipped = True
        if not scaled:
            for parameter in self.student.parameters():
                parameter.grad = None  # the optimizer ignores such parameters: no weight and no moment changes

    def can_defer(self, optimizer: Optimizer) -> bool:
        """Return whether the optimizer can skip a step on the device, so that ``defer`` may be called.

        Fused optimizers of torch can, which is how a gradient scaler makes them skip. Under FSDP2 their gradients are
        of another kind than the flag.

        Args:
            optimizer: of the run.
        """
        on_device = next(self.student.parameters()).device.type in _DEFERRING_DEVICES
        is_fused = isinstance(optimizer, Adam | SGD) and all(group.get("fused") for group in optimizer.param_groups)
        return on_device and is_fused and not is_sharded(self.student)

    def defer(self, step: int, optimizer: Optimizer) -> None:
        """Make the optimizer skip its next step if the gradient is not finite, without waiting for the device.

        ``take_flag`` has to be called after the step, and ``read_verdict`` before the next one.

        Args:
            step: number of the optimizer step, for the message.
            optimizer: one that ``can_defer``.
        """
        window, self._window, self.has_skipped = self._window, [], False
        is_skipped = self._is_finite().logical_not().float()
        optimizer.found_inf = is_skipped  # type: ignore[attr-defined]  # where torch's GradScaler puts it, too
        self._deferred = _Deferred(step, window, is_skipped, _HostCopy(is_skipped))

    def take_flag(self, optimizer: Optimizer) -> Tensor | None:
        """Remove the flag from the optimizer and return it: ``()`` float32, 1 where the device has skipped the step.

        Args:
            optimizer: after its step.

        Returns:
            None where the step was not deferred.
        """
        if self._deferred is None:
            return None
        del optimizer.found_inf  # type: ignore[attr-defined]
        return self._deferred.is_skipped

    def read_verdict(self) -> None:
        """Act on the last step if it was deferred and its gradient was not finite.

        Raises:
            NonFiniteError: as ``check`` does.
        """
        deferred, self._deferred = self._deferred, None
        if deferred is None:
            return
        if deferred.verdict.read():
            self._refuse(deferred.step, deferred.window)
        else:
            self._consecutive_skips = 0

    def skipped_steps(self) -> Tensor | float:
        """Return how many steps were skipped, the current one included: ``()`` on the device where it was deferred."""
        return float(self.num_skipped) if self._deferred is None else self.num_skipped + self._deferred.is_skipped

    def _refuse(self, step: int, window: list[_MicroBatch]) -> None:
        """Count and report a step that is skipped, or stop the run."""
        culprit = "gradient" if _has_finite_losses(window) else "loss"
        problem = f"the {culprit} is not finite at step {step} ({self._causes(window)})"
        if self.skip and self._consecutive_skips < _MAX_CONSECUTIVE_SKIPS:
            self._consecutive_skips += 1
            self.num_skipped += 1
            log.warning(f"{problem}: the step is skipped")
            return
        skipped = f", after {self._consecutive_skips} skipped steps" if self._consecutive_skips else ""
        raise NonFiniteError(
            f"{problem}{skipped}: lower optimizer.lr, set trainer.gradient_clip_val=1, "
            f"{'or ' if self.skip else ''}use precision=bf16-mixed{'' if self.skip else ', or non_finite=skip'}; "
            "ckpt_path=last resumes from the checkpoint before it"
        )

    def _is_finite(self) -> Tensor:
        """Return whether the gradient is finite, as a ``()`` bool tensor on its device."""
        gradients = [
            parameter.grad
            for name, parameter in self.student.named_parameters()
            if parameter.grad is not None and (parameter.ndim == 1 or name.endswith(_PROJECTIONS) or _ADAPTER in name)
        ]
        norm: Any = torch.nn.utils.get_total_norm(gradients)
        finite: Tensor = (norm.full_tensor() if isinstance(norm, DTensor) else norm).isfinite()
        return finite

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
