"""A model for use in Python: it takes images and captions in common types and returns features and scores.

Shapes: I images, C captions, D embedding.
"""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from degla.api.spec import model_values
from degla.cli.compose import compose_config
from degla.cli.instantiate import instantiate
from degla.data.images import BadImage, decode
from degla.errors import ConfigError, DataError
from degla.evaluation import Encoder
from degla.models import ClipModel, load_clip

ImageLike = str | Path | bytes | Image.Image | np.ndarray | Tensor


class Model:
    """A CLIP model with its preprocessing and its tokenizer.

    Args:
        clip: the model, as ``degla.models.load_clip`` returns it. It is at ``Model.clip``.
        label: what it is called in tables.
        batch_size: number of images or captions that are encoded at once.
    """

    def __init__(self, clip: ClipModel, label: str, batch_size: int = 256):
        self.clip = clip
        self.label = label
        self._encoder = Encoder(clip, batch_size)

    def __repr__(self) -> str:
        weights = sum(parameter.numel() for parameter in self.clip.parameters())
        return f"Model({self.label!r}, {weights / 1e6:.1f} million weights, {self.device})"

    @property
    def device(self) -> torch.device:
        """The device that the model computes on."""
        return next(self.clip.parameters()).device

    def to(self, device: str | torch.device) -> "Model":
        """Move the model to a device, and return it."""
        self.clip.to(device)
        return self

    def encode_image(self, images: ImageLike | Sequence[ImageLike]) -> Tensor:
        """Encode images as the benchmarks do: in evaluation mode, resized and cropped, in float32.

        Args:
            images: one image or a sequence: a path, the bytes of a file, a Pillow image, a ``(H, W, 3)`` uint8 array,
                or a ``(3, H, W)`` uint8 tensor.

        Returns:
            ``(I, D)`` float32 on the CPU, of unit norm.

        Raises:
            DataError: an image cannot be read.
        """
        items = [images] if isinstance(images, ImageLike) else list(images)
        size = self._encoder.batch_size
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        features = [
            self._encoder.encode_images(torch.stack([self._encoder.transform(_pixels(item)) for item in batch]))
            for batch in batches
        ]
        return torch.cat(features) if features else torch.zeros(0, self.clip.config["embed_dim"])

    def encode_text(self, captions: str | Sequence[str]) -> Tensor:
        """Encode captions; those beyond the context length are truncated.

        Args:
            captions: one caption or a sequence.

        Returns:
            ``(C, D)`` float32 on the CPU, of unit norm.
        """
        items = [captions] if isinstance(captions, str) else list(captions)
        size = self._encoder.batch_size
        features = [self._encoder.encode_texts(items[start : start + size]) for start in range(0, len(items), size)]
        return torch.cat(features) if features else torch.zeros(0, self.clip.config["embed_dim"])

    def score(self, images: ImageLike | Sequence[ImageLike], captions: str | Sequence[str]) -> Tensor:
        """Return the cosine of every image with every caption.

        Args:
            images: as in ``encode_image``.
            captions: as in ``encode_text``.

        Returns:
            ``(I, C)`` float32, from -1 to 1.

        Raises:
            DataError: an image cannot be read.
        """
        return self.encode_image(images) @ self.encode_text(captions).T


def load(model: str | Path, architecture: str | None = None, device: str = "auto", batch_size: int = 256) -> Model:
    """Load a model.

    Args:
        model: the folder of a run, or of a model that degla or open_clip wrote; a checkpoint or a file of weights; an
            option of ``configs/model`` such as ``scenes``; an open_clip name with its tag, such as
            ``ViT-B-32/openai``; or ``hf-hub:org/name``.
        architecture: open_clip name for a file of weights that does not record it.
        device: ``cpu``, ``cuda``, or ``auto``: ``cuda`` where there is one.
        batch_size: number of images or captions that are encoded at once.

    Raises:
        ConfigError: no model of that name exists.
        CheckpointError: the weights cannot be used.
    """
    values = model_values(model, architecture)
    if "option" in values:
        cfg = compose_config("evaluate", {"model": values, "benchmark": "none"})
        clip = instantiate(cfg.model, "model")
    else:
        clip = load_clip(**_known_arguments(values))
    return Model(clip.eval(), label=str(model), batch_size=batch_size).to(choose_device(device))


def choose_device(device: str) -> str:
    """Return the device for ``auto``, and check any other one.

    Args:
        device: as a user wrote it.

    Raises:
        ConfigError: there is no such device.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    with contextlib.suppress(RuntimeError, AssertionError):
        torch.empty(0, device=device)
        return device
    raise ConfigError(f"device={device} is not available: set it to auto, cpu or cuda")


def _known_arguments(values: dict[str, Any]) -> dict[str, Any]:
    # Training settings of the run that wrote a checkpoint say nothing about its use.
    return {key: value for key, value in values.items() if key in ("name", "pretrained", "quick_gelu", "cache_dir")}


def _pixels(image: ImageLike) -> Tensor:
    """Return ``(3, H, W)`` uint8."""
    try:
        if isinstance(image, str | Path):
            return decode(None, str(Path(image).expanduser()))
        if isinstance(image, bytes):
            return decode(image, "the image's bytes")
        if isinstance(image, Image.Image):
            file = io.BytesIO()
            image.convert("RGB").save(file, format="BMP")  # without loss, and by the same decoder as files
            return decode(file.getvalue(), "the Pillow image")
    except BadImage as error:
        raise DataError(f"an image cannot be used: {error}") from error
    pixels = (
        torch.from_numpy(image.copy()).permute(2, 0, 1) if isinstance(image, np.ndarray) and image.ndim == 3 else image
    )
    if not isinstance(pixels, Tensor) or pixels.ndim != 3 or len(pixels) != 3 or pixels.dtype != torch.uint8:
        shape = tuple(getattr(image, "shape", ()))
        raise DataError(
            f"an image of type {type(image).__name__} and shape {shape} cannot be used: give a path, bytes, a Pillow "
            "image, a (H, W, 3) uint8 array or a (3, H, W) uint8 tensor"
        )
    return pixels.cpu()
