"""The teacher: a copy of the student that only gives embeddings (DeGLA section 3.2)."""

import copy

import torch
from torch import Tensor, nn

from degla.models.clip import ClipModel


class Teacher(nn.Module):
    """A frozen or slowly moving copy of the student; always in eval mode, never given gradients.

    Args:
        student: is copied as it is now.
        decay: None keeps the copy frozen; a number in [0, 1) makes it an exponential moving average of the
            student, ``teacher = decay * teacher + (1 - decay) * student`` at each optimizer step.

    Raises:
        ValueError: ``decay`` is outside [0, 1).
    """

    def __init__(self, student: ClipModel, decay: float | None = 0.9996):
        super().__init__()
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"teacher.decay must be in [0, 1), not {decay}; use teacher=frozen for a fixed teacher")
        self.decay = decay
        self.model = copy.deepcopy(student).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval mode whatever the LightningModule around it does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See ``ClipModel.forward``. No gradient; not inference mode, since TGC multiplies by the result."""
        return self.model(images, tokens)

    @torch.no_grad()
    def update(self, student: ClipModel) -> None:
        """Move towards ``student`` by one optimizer step; does nothing if frozen.

        Parameters are averaged in place and paired by name; buffers (batch norm statistics) are copied.
        """
        if self.decay is None:
            return
        for module in self.modules():  # FSDP2 leaves a root unsharded after a forward without gradient
            if hasattr(module, "reshard"):
                module.reshard()
        current = dict(student.named_parameters())
        names, mine = zip(*self.model.named_parameters(), strict=True)
        torch._foreach_lerp_(list(mine), [current[name].detach() for name in names], 1 - self.decay)
        buffers = dict(student.named_buffers())
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])
