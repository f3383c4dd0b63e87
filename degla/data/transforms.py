"""Bytes to pixels: decode, crop and resize as uint8; normalising happens on the device."""

import contextlib
import io
import math
import random
from pathlib import Path

from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

try:  # twice as fast as Pillow and equal to the last bit (tests/data/test_transforms.py)
    from torchcodec.decoders import decode_jpeg
except (ImportError, RuntimeError, OSError):  # not installed, or made for another PyTorch
    decode_jpeg = None

_ASPECT = (math.log(3 / 4), math.log(4 / 3))  # of a crop, width by height, as torchvision has it


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
        with Image.open(io.BytesIO(data)) as image:  # reads no pixels yet, refuses what is too large
            if decode_jpeg and image.format == "JPEG":
                with contextlib.suppress(RuntimeError, ValueError):  # Pillow decides what is bad, and says why
                    return decode_jpeg(data, mode="RGB")
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
        self.size = list(size)
        self.scale = tuple(scale)
        self.interpolation = v2.InterpolationMode(interpolation)

    def __call__(self, image: Tensor, rng: random.Random) -> Tensor:
        """``(3, H, W)`` uint8 -> ``(3, *size)`` uint8."""
        box = self._box(*image.shape[1:], rng)
        return F.resized_crop(image, *box, self.size, self.interpolation, antialias=True)

    def _box(self, height: int, width: int, rng: random.Random) -> tuple[int, int, int, int]:
        """Top, left, height, width, distributed as torchvision's ``RandomResizedCrop`` draws them.

        Not drawn by it: it draws from PyTorch's global generator only, and to seed that for one image and put
        it back takes as long as to decode the image.
        """
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            aspect = math.exp(rng.uniform(*_ASPECT))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return rng.randint(0, height - h), rng.randint(0, width - w), h, w
        least, most = math.exp(_ASPECT[0]), math.exp(_ASPECT[1])  # the largest box in the middle
        w, h = min(width, round(height * most)), min(height, round(width / least))
        return (height - h) // 2, (width - w) // 2, h, w


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
