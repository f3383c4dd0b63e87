"""A model as benchmarks use it: evaluation mode, no gradient, float32 out."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Literal, Protocol

import torch
from torch import Tensor

from degla.data.transforms import EvalTransform


class DualEncoder(Protocol):
    """What a benchmark needs of a model; ``degla.models.ClipModel`` is one."""

    clip: torch.nn.Module
    config: dict
    tokenizer: object
    preprocess: dict
    image_size: tuple[int, int]

    def encode_image(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` uint8 -> ``(B, D)`` unit norm."""

    def encode_text(self, tokens: Tensor) -> Tensor:
        """``(M, L)`` int64 -> ``(M, D)`` unit norm."""


class Encoder:
    """Encodes batches and says what it is.

    Args:
        model: is put back into the mode it was in.
        batch_size: images or texts encoded at once.
        precision: in which the towers compute; under FSDP2 always the one of the run. Features are float32.
    """

    def __init__(
        self, model: DualEncoder, batch_size: int = 256, precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    ):
        self.model = model
        self.batch_size = batch_size
        self.precision = precision
        self.transform = EvalTransform(
            model.image_size, model.preprocess["interpolation"], model.preprocess["resize_mode"]
        )

    def encode_images(self, pixels: Tensor) -> Tensor:
        """``(B, 3, H, W)`` uint8, already transformed, -> ``(B, D)`` float32 on the CPU."""
        with self._evaluating() as device:
            return self.model.encode_image(pixels.to(device)).float().cpu()

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> ``(B, D)`` float32 on the CPU."""
        with self._evaluating() as device:
            return self.model.encode_text(self.model.tokenizer(texts).to(device)).float().cpu()

    def protocol(self) -> dict[str, str]:
        """What in the model's use can change a score."""
        size = "x".join(map(str, self.model.image_size))
        return {
            "activation": "quick_gelu" if self.model.config.get("quick_gelu") else "gelu",
            "precision": self.precision,
            "image": f"{size} {self.model.preprocess['interpolation']} {self.model.preprocess['resize_mode']}",
        }

    def fingerprint(self) -> str:
        """Hash of the weights and of everything else that the features depend on."""
        digest = hashlib.sha256()
        known = [self.protocol(), self.model.config, self.model.preprocess]
        digest.update(json.dumps(known, sort_keys=True, default=str).encode())
        for name, value in sorted(self.model.clip.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    @contextmanager
    def _evaluating(self):
        training = self.model.training
        self.model.eval()
        device = next(self.model.parameters()).device
        dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.precision)
        try:
            # Not inference_mode: weights that FSDP2 gathers under it could not be trained on afterwards.
            with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype is not None):
                yield device
        finally:
            self.model.train(training)
