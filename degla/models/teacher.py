"""The teacher: a copy of the student that only gives embeddings (DeGLA section 3.2)."""

import copy

import torch
from torch import Tensor, nn

from degla.models.clip import ClipModel
from degla.models.packing import PackedTexts


class Teacher(nn.Module):
    """A frozen or slowly moving copy of the student; always in eval mode, never given gradients.

    Args:
        student: is copied as it is now.
        decay: None keeps the copy frozen; a number in [0, 1) makes it an exponential moving average of the
            student, ``teacher = decay * teacher + (1 - decay) * student`` at each optimizer step.
        text_cache: folder in which a frozen teacher's text features are kept between epochs and runs; None
            encodes every text whenever it is met.

    Raises:
        ValueError: ``decay`` is outside [0, 1), or ``text_cache`` is set for a teacher that moves.
    """

    def __init__(self, student: ClipModel, decay: float | None = 0.9996, text_cache: str | None = None):
        super().__init__()
        if text_cache and decay is not None:
            raise ValueError("teacher.text_cache is for teacher=frozen: the texts of a teacher that moves change")
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"teacher.decay must be in [0, 1), not {decay}; use teacher=frozen for a fixed teacher")
        self.decay = decay
        self.text_cache = text_cache
        self.model = copy.deepcopy(student).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval mode whatever the LightningModule around it does."""
        return super().train(False)

    def forward(self, images: Tensor, texts: Tensor | PackedTexts) -> tuple[Tensor, Tensor, Tensor]:
        """See ``ClipModel.forward``; without gradient."""
        return self._quietly(self.model, images, texts)

    def encode_image(self, images: Tensor) -> Tensor:
        """See ``ClipModel.encode_image``; without gradient."""
        return self._quietly(self.model.encode_image, images)

    def _quietly(self, encode, *arguments):
        if hasattr(self.model, "reshard"):  # what FSDP2 gathers in inference mode could not be averaged afterwards
            with torch.no_grad():
                return encode(*arguments)
        with torch.inference_mode():
            features = encode(*arguments)
        # Copies are ordinary tensors, which TGC's backward pass may keep.
        return features.clone() if isinstance(features, Tensor) else tuple(part.clone() for part in features)

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
