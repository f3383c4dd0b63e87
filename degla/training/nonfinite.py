"""What happens when a loss or a gradient is not finite."""

import logging
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from degla.data.schema import Batch
from degla.errors import ConfigError
from degla.models import ClipModel

log = logging.getLogger(__name__)

_MOST_IN_A_ROW = 20  # skipped steps after which the weights are to blame
_MOST_ROWS = 5  # named in a message
_PROJECTIONS = ("visual.proj", "text_projection")


class NonFiniteGuard:
    """Looks at the gradient before each step of the optimizer.

    It reads the gradients of one-dimensional parameters and of the two projections only: every layer has some, what
    is not finite in a layer reaches them, and they are a hundredth of all.

    Args:
        student: whose gradients.
        skip: leave such a step out; else stop the run.
    """

    def __init__(self, student: ClipModel, skip: bool):
        self.student = student
        self.skip = skip
        self.num_skipped = 0
        self.has_skipped = False  # the step under way
        self._in_a_row = 0
        self._window: list[tuple[Batch, list[str], Tensor]] = []  # micro-batches of the step under way

    def note(self, batch: Batch, terms: Iterable[str], values: Tensor) -> None:
        """Remember a micro-batch and its terms, the means over all ranks, until the optimizer's step."""
        self._window.append((batch, list(terms), values))

    def check(self, step: int, scaled: bool = False) -> None:
        """Before the optimizer's step; drops the gradients if it is to be left out.

        Args:
            step: of the optimizer.
            scaled: 16-mixed: its scaler skips steps whose gradient is not finite, which is how it finds its scale; only
                the loss is looked at.

        Raises:
            ConfigError: something is not finite, and ``skip`` is False or has not helped.
        """
        window, self._window, self.has_skipped = self._window, [], False
        if _are_finite(window) if scaled else self._has_finite_gradient():
            self._in_a_row = 0
            return
        what = (
            f"the {'gradient' if _are_finite(window) else 'loss'} is not finite at step {step} ({self._causes(window)})"
        )
        if self.skip and self._in_a_row < _MOST_IN_A_ROW:
            self.has_skipped = True
            self._in_a_row += 1
            self.num_skipped += 1
            for parameter in () if scaled else self.student.parameters():
                parameter.grad = None  # the optimizer leaves out what has none: neither weights nor moments move
            log.warning(f"{what}: the step is skipped")
            return
        skipped = f", after {self._in_a_row} skipped steps" if self._in_a_row else ""
        raise ConfigError(
            f"{what}{skipped}: lower optimizer.lr, set trainer.gradient_clip_val=1, "
            f"{'or ' if self.skip else ''}use precision=bf16-mixed{'' if self.skip else ', or non_finite=skip'}; "
            "ckpt_path=last goes on from before"
        )

    def _has_finite_gradient(self) -> bool:
        gradients = [
            parameter.grad
            for name, parameter in self.student.named_parameters()
            if parameter.grad is not None and (parameter.ndim == 1 or name.endswith(_PROJECTIONS))
        ]
        norm = torch.nn.utils.get_total_norm(gradients)
        return bool((norm.full_tensor() if hasattr(norm, "full_tensor") else norm).isfinite())

    @torch.no_grad()
    def _causes(self, window: list[tuple[Batch, list[str], Tensor]]) -> str:
        """Terms, and the rows of all ranks whose features are not finite."""
        terms, rows = [], []
        for batch, names, values in window:
            if not values.isfinite().all() or len(window) == 1:
                terms = [f"{name} {value:.4g}" for name, value in zip(names, values.tolist(), strict=True)]
            # Sample by row: packed together, one spoilt text spoils those beside it. Ranks of FSDP2, whose numbers of
            # rows may differ, have to call the model equally often.
            size = len(batch.samples) if hasattr(self.student, "reshard") else 1
            for i in range(0, len(batch.samples), size):
                texts = torch.cat([batch.captions[i : i + size], batch.negatives[i : i + size].flatten(0, 1)])
                image, text, _ = self.student(batch.images[i : i + size], texts)
                if not (image.isfinite().all() and text.isfinite().all()):
                    rows += [row.id for row in batch.samples[i : i + size]]
        parts = [rows]
        if dist.is_available() and dist.is_initialized():
            parts = [None] * dist.get_world_size()
            dist.all_gather_object(parts, rows)
        rows = sorted({row for part in parts for row in part})
        if not rows:
            who = "no row by itself"
        elif len(rows) > _MOST_ROWS:
            who = f"{len(rows)} rows, {', '.join(rows[:_MOST_ROWS])} among them"
        else:
            who = f"rows {', '.join(rows)}"
        return "; ".join(filter(None, (", ".join(terms), who)))


def _are_finite(window: list[tuple[Batch, list[str], Tensor]]) -> bool:
    return all(bool(values.isfinite().all()) for _, _, values in window)
