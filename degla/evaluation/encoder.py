"""A model as benchmarks use it: in evaluation mode, without gradients, with features in float32."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from degla.data.transforms import EvalTransform

Precision = Literal["32", "bf16-mixed", "16-mixed"]
_AUTOCAST_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class DualEncoder(Protocol):
    """The interface of models for benchmarks; ``degla.models.ClipModel`` implements it."""

    clip: nn.Module
    config: dict[str, Any]
    preprocess: dict[str, Any]
    training: bool

    @property
    def tokenizer(self) -> Callable[[Sequence[str]], Tensor]:
        """Texts -> ``(M, L)`` int64."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode ``(B, 3, H, W)`` uint8 images as ``(B, D)`` features of unit norm."""

    def encode_text(self, texts: Tensor) -> Tensor:
        """Encode ``(M, L)`` int64 token ids as ``(M, D)`` features of unit norm."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the weights."""

    def train(self, mode: bool = True) -> Any:
        """Switch to training mode, or with ``mode=False`` to evaluation mode."""


class Encoder:
    """Encodes batches with a model, and describes the model for the protocol of a result.

    Args:
        model: the model; after each call it is back in the mode that it was in.
        batch_size: number of images or texts that are encoded at once.
        precision: what the towers compute in. Under FSDP2 it is always the precision of the run. Features are
            float32 in any case.
    """

    def __init__(self, model: DualEncoder, batch_size: int = 256, precision: Precision = "32"):
        self.model = model
        self.batch_size = batch_size
        self.precision = precision
        self.transform = EvalTransform(
            model.image_size, model.preprocess["interpolation"], model.preprocess["resize_mode"]
        )

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode ``(B, 3, H, W)`` uint8 images, already transformed, as ``(B, D)`` float32 on the CPU."""
        with self._evaluating() as device:
            return self.model.encode_image(pixels.to(device)).float().cpu()

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode ``B`` texts as ``(B, D)`` float32 on the CPU."""
        with self._evaluating() as device:
            return self.model.encode_text(self.model.tokenizer(texts).to(device)).float().cpu()

    def protocol(self) -> dict[str, str]:
        """Return the settings of the model that can change a score."""
        size = "x".join(map(str, self.model.image_size))
        return {
            "activation": "quick_gelu" if self.model.config.get("quick_gelu") else "gelu",
            "precision": self.precision,
            "image": f"{size} {self.model.preprocess['interpolation']} {self.model.preprocess['resize_mode']}",
        }

    def fingerprint(self) -> str:
        """Return a hash of the weights and of everything else that the features depend on."""
        digest = hashlib.sha256()
        settings = [self.protocol(), self.model.config, self.model.preprocess]
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
        for name, value in sorted(self.model.clip.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    @contextmanager
    def _evaluating(self) -> Iterator[torch.device]:
        """Yield the model's device, with the model in evaluation mode."""
        training = self.model.training
        self.model.train(False)
        device = next(self.model.parameters()).device
        dtype = _AUTOCAST_DTYPES.get(self.precision)
        try:
            # Not inference_mode: weights that FSDP2 gathers under it could not be trained on afterwards.
            with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype is not None):
                yield device
        finally:
            self.model.train(training)
