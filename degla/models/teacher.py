"""The teacher: a copy of the student that only provides embeddings (DeGLA section 3.2)."""

import copy
from collections.abc import Callable
from typing import Annotated, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from degla.bounds import Bound, bounded, share
from degla.compat.torch import foreach_lerp_
from degla.errors import ConfigError
from degla.models.adapters import copy_sharing_base
from degla.models.clip import ClipModel
from degla.models.encoding import Encoding
from degla.models.packing import PackedTexts
from degla.models.sharding import is_sharded

_P = ParamSpec("_P")
_DECAY = Bound(
    share(below_one=True).allows, "a number of 0 or more and less than 1 (teacher=frozen for a fixed teacher)"
)
_Features = TypeVar("_Features", Tensor, Encoding)


class Teacher(nn.Module):
    """A frozen or slowly moving copy of the student; always in eval mode, never given gradients.

    Args:
        student: is copied with its current weights.
        decay: None keeps the copy frozen; a number in [0, 1) makes it an exponential moving average of the student,
            ``teacher = decay * teacher + (1 - decay) * student`` at each optimizer step.
        text_cache: folder in which a frozen teacher's text features are kept between epochs and runs; None encodes
            every text in each step.

    Raises:
        ConfigError: ``decay`` is outside [0, 1), or ``text_cache`` is set for a teacher that moves.
    """

    @bounded("teacher")
    def __init__(
        self,
        student: ClipModel,
        decay: Annotated[float, _DECAY] | None = 0.9996,
        text_cache: str | None = None,
    ):
        super().__init__()
        if text_cache and decay is not None:
            raise ConfigError(
                "teacher.text_cache is for teacher=frozen, because a moving teacher's features change with every step: "
                "set teacher.text_cache=null or teacher=frozen"
            )
        self.decay = decay
        self.text_cache = text_cache
        self.model = _copy(student, moves=decay is not None).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval mode, whatever mode the LightningModule around the teacher is set to.

        Args:
            mode: ignored.
        """
        return super().train(False)

    def forward(self, images: Tensor, texts: Tensor | PackedTexts) -> Encoding:
        """Encode images and texts without gradient; see ``ClipModel.forward``.

        Args:
            images: ``(B, 3, H, W)`` uint8.
            texts: M texts, packed, or as ``(M, L)`` int64 tokens.

        Returns:
            ``(B, D)`` image features, ``(M, D)`` text features, and the ``()`` multiplier.
        """
        encoding: Encoding = self._without_gradient(self.model, images, texts)
        return encoding

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode ``(B, 3, H, W)`` uint8 images to ``(B, D)`` unit-norm features without gradient."""
        return self._without_gradient(self.model.encode_image, images)

    def _without_gradient(self, encode: Callable[_P, _Features], *args: _P.args, **kwargs: _P.kwargs) -> _Features:
        if is_sharded(self.model):
            # Parameters that FSDP2 gathers in inference mode are inference tensors, which the EMA could not update.
            with torch.no_grad():
                return encode(*args, **kwargs)
        with torch.inference_mode():
            features = encode(*args, **kwargs)
        # TGC's backward pass keeps these features. Autograd cannot save inference tensors, but it can save copies.
        return features.clone() if isinstance(features, Tensor) else _cloned(features)

    @torch.no_grad()
    def update(self, student: ClipModel, skipped: Tensor | None = None) -> None:
        """Move towards ``student`` by one optimizer step, or do nothing if frozen.

        Parameters are averaged in place and paired by name. Buffers (batch norm statistics) are copied.

        Args:
            student: the model that has just taken an optimizer step.
            skipped: ``()`` float32 on the device, 1 where the optimizer has skipped its step and the teacher must not
                move; None where it has not. Reading the value here would wait for the device.
        """
        if self.decay is None:
            return
        if is_sharded(self.model):
            for module in self.modules():
                if is_sharded(module):  # FSDP2 leaves the root unsharded after a forward pass without gradient
                    module.reshard()
        current = dict(student.named_parameters())
        pairs = [
            (own, current[name].detach()) for name, own in self.model.named_parameters() if own is not current[name]
        ]
        averaged, targets = zip(*pairs, strict=True)
        foreach_lerp_(averaged, targets, 1 - self.decay if skipped is None else (1 - self.decay) * (1 - skipped))
        buffers = dict(student.named_buffers())
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name] if skipped is None else torch.where(skipped > 0, buffer, buffers[name]))


def _copy(student: ClipModel, moves: bool) -> ClipModel:
    """Return the teacher's model; with an adapter on the student it shares the frozen weights.

    An exponential moving average is one of the adapter's matrices. A frozen teacher is the base model, which the
    student equals before its first step.
    """
    if student.lora is None:
        return copy.deepcopy(student)
    return copy_sharing_base(student, with_adapter=moves)


def _cloned(encoding: Encoding) -> Encoding:
    return encoding._replace(**{name: part.clone() for name, part in encoding._asdict().items() if part is not None})
