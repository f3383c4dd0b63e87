"""Pictures and texts to features, the same way for every benchmark."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from degla.data.transforms import EvalTransform, decode


class DualEncoder(Protocol):
    """What a benchmark needs of a model; ``degla.models.ClipModel`` is one."""

    tokenizer: object
    preprocess: dict
    image_size: tuple[int, int]

    def encode_image(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` uint8 -> ``(B, D)`` unit norm."""

    def encode_text(self, tokens: Tensor) -> Tensor:
        """``(M, L)`` int64 -> ``(M, D)`` unit norm."""


class Encoder:
    """Encodes in float32 (FSDP2: in the dtype it computes in), in evaluation mode, without gradient.

    Args:
        model: is put back into the mode it was in.
        batch_size: pictures or texts encoded at once.
    """

    def __init__(self, model: DualEncoder, batch_size: int = 256):
        self.model = model
        self.batch_size = batch_size
        self.transform = EvalTransform(
            model.image_size, model.preprocess["interpolation"], model.preprocess["resize_mode"]
        )

    def images(self, files: Sequence[bytes]) -> Tensor:
        """``(N, D)`` float32 on the CPU, of encoded image files."""
        return self._encode([self.transform(decode(file, None)) for file in files], torch.stack, "encode_image")

    def texts(self, texts: Sequence[str]) -> Tensor:
        """``(N, D)`` float32 on the CPU; each different text is encoded once, texts of like length together."""
        different = sorted(set(texts), key=lambda text: (len(text.split()), text))
        features = self._encode(different, self.model.tokenizer, "encode_text")
        place = {text: i for i, text in enumerate(different)}
        return features[[place[text] for text in texts]]

    @torch.inference_mode()
    def _encode(self, items: list, to_tensor, method: str) -> Tensor:
        training = self.model.training
        self.model.eval()
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, enabled=False):
            features = [
                getattr(self.model, method)(to_tensor(items[i : i + self.batch_size]).to(device)).float().cpu()
                for i in range(0, len(items), self.batch_size)
            ]
        self.model.train(training)
        return torch.cat(features)
