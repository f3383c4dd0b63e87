"""Bytes to pixels: decode with Pillow, crop and resize as uint8; normalising happens on the device."""

import io
import random
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F


class BadImage(Exception):
    """An image file that cannot be shown; the message says why."""


def decode(image_bytes: bytes | None, path: str | None) -> Tensor:
    """Decode an image whole.

    Returns:
        ``(3, H, W)`` uint8, RGB.

    Raises:
        BadImage: missing, empty, truncated, no image at all, or too large to be honest.
    """
    try:
        data = image_bytes if image_bytes is not None else Path(path or "").read_bytes()
        if not data:
            raise BadImage("empty file")
        with Image.open(io.BytesIO(data)) as image:
            return F.pil_to_tensor(image.convert("RGB"))
    except FileNotFoundError as error:
        raise BadImage(f"no such file: {path}") from error
    except BadImage as error:
        raise BadImage(f"{error}: {path}") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow names the buffer by its address, which differs from run to run.
        reason = "not an image" if "cannot identify" in str(error) else str(error)
        raise BadImage(f"{reason}: {path}") from error


class TrainTransform:
    """Random crop, resized; reproducible for one row of one pass.

    Args:
        size: height and width in pixels.
        scale: bounds of the cropped share of the area; open_clip and the authors take 0.9 to 1.
        interpolation: ``bicubic`` or ``bilinear``, as the model was trained.
    """

    def __init__(self, size: tuple[int, int], scale: tuple[float, float], interpolation: str = "bicubic"):
        mode = v2.InterpolationMode(interpolation)
        self.crop = v2.RandomResizedCrop(size, scale=tuple(scale), interpolation=mode, antialias=True)

    def __call__(self, image: Tensor, rng: random.Random) -> Tensor:
        """``(3, H, W)`` uint8 -> ``(3, *size)`` uint8."""
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's global generator only
            torch.manual_seed(rng.getrandbits(63))
            return self.crop(image)


class EvalTransform:
    """The model's own preprocessing: resize as it was trained, centre crop.

    Args:
        size: height and width in pixels.
        interpolation: ``bicubic`` or ``bilinear``.
        resize_mode: ``shortest`` (CLIP) or ``squash`` (SigLIP), as open_clip names them.

    Raises:
        ValueError: another ``resize_mode``.
    """

    def __init__(self, size: tuple[int, int], interpolation: str = "bicubic", resize_mode: str = "shortest"):
        if resize_mode not in ("shortest", "squash"):
            raise ValueError(f"resize_mode {resize_mode!r} of this model is not supported, only shortest and squash")
        mode = v2.InterpolationMode(interpolation)
        edge = list(size) if resize_mode == "squash" else min(size)
        self.steps = v2.Compose([v2.Resize(edge, interpolation=mode, antialias=True), v2.CenterCrop(size)])

    def __call__(self, image: Tensor, rng: random.Random | None = None) -> Tensor:
        """``(3, H, W)`` uint8 -> ``(3, *size)`` uint8."""
        return self.steps(image)
