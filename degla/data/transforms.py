"""From image files to pixels: decode, crop and resize as uint8.

Normalization happens on the device.

Shapes: H, W of the file, H', W' of the model.
"""

import contextlib
import io
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from degla.errors import ConfigError

# torchcodec is twice as fast as Pillow and gives the same pixels (tests/data/test_transforms.py). It may be missing
# or built for another version of torch.
decode_jpeg: Callable[..., Any] | None
try:
    from torchcodec import decoders
except (ImportError, RuntimeError, OSError):
    decode_jpeg = None
else:
    decode_jpeg = decoders.decode_jpeg

_LOG_ASPECT = (math.log(3 / 4), math.log(4 / 3))  # bounds of a crop's width by height, as in torchvision


class BadImage(Exception):
    """An image file that cannot be decoded; the message says why."""


def decode(image_bytes: bytes | None, path: str | None) -> Tensor:
    """Decode a whole image.

    Args:
        image_bytes: the encoded file; None reads ``path``.
        path: the file, also named in messages.

    Returns:
        ``(3, H, W)`` uint8, RGB.

    Raises:
        BadImage: the file is missing, empty, truncated, not an image, or too large.
    """
    try:
        data = image_bytes if image_bytes is not None else Path(path or "").read_bytes()
        if not data:
            raise BadImage("empty file")
        with Image.open(io.BytesIO(data)) as image:  # reads the header only, and refuses too many pixels
            if decode_jpeg and image.format == "JPEG":
                with contextlib.suppress(RuntimeError, ValueError):  # then Pillow decides, and names the reason
                    return cast(Tensor, decode_jpeg(data, mode="RGB"))
            return cast(Tensor, F.pil_to_tensor(image.convert("RGB")))
    except FileNotFoundError as error:
        raise BadImage(f"no such file: {path}") from error
    except BadImage as error:
        raise BadImage(f"{error}: {path}") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow's own message contains a memory address, which differs from run to run.
        reason = "not an image" if "cannot identify" in str(error) else str(error)
        raise BadImage(f"{reason}: {path}") from error


class TrainTransform:
    """A random crop, resized to the model's size.

    Args:
        size: H' and W' in pixels.
        scale: bounds of the crop's share of the area; open_clip and the authors use 0.9 to 1.
        interpolation: ``bicubic`` or ``bilinear``, as the model was trained.
    """

    def __init__(self, size: tuple[int, int], scale: Sequence[float], interpolation: str = "bicubic"):
        self.size = list(size)
        self.scale = (scale[0], scale[1])
        self.interpolation = v2.InterpolationMode(interpolation)

    def __call__(self, image: Tensor, rng: random.Random) -> Tensor:
        """Crop and resize.

        Args:
            image: ``(3, H, W)`` uint8.
            rng: draws the crop.

        Returns:
            ``(3, H', W')`` uint8.
        """
        top, left, height, width = self._box(image.shape[1], image.shape[2], rng)
        resized = F.resized_crop(image, top, left, height, width, self.size, self.interpolation, antialias=True)
        return cast(Tensor, resized)

    def _box(self, height: int, width: int, rng: random.Random) -> tuple[int, int, int, int]:
        """Return top, left, height and width, distributed like torchvision's ``RandomResizedCrop``.

        torchvision's own class draws from PyTorch's global generator. Seeding that generator for one image and
        restoring it takes as long as decoding the image.
        """
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            aspect = math.exp(rng.uniform(*_LOG_ASPECT))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return rng.randint(0, height - h), rng.randint(0, width - w), h, w
        narrowest, widest = math.exp(_LOG_ASPECT[0]), math.exp(_LOG_ASPECT[1])
        w, h = min(width, round(height * widest)), min(height, round(width / narrowest))
        return (height - h) // 2, (width - w) // 2, h, w  # the largest allowed box, in the centre


class EvalTransform:
    """The model's own preprocessing: resize as in its training, then centre crop.

    Args:
        size: H' and W' in pixels.
        interpolation: ``bicubic`` or ``bilinear``.
        resize_mode: ``shortest`` (CLIP) or ``squash`` (SigLIP), as open_clip names them.

    Raises:
        ConfigError: the model has another ``resize_mode``.
    """

    def __init__(self, size: tuple[int, int], interpolation: str = "bicubic", resize_mode: str = "shortest"):
        if resize_mode not in ("shortest", "squash"):
            raise ConfigError(
                f"the model resizes images by resize_mode={resize_mode!r}, but only shortest and squash are "
                "supported: set model to another architecture"
            )
        mode = v2.InterpolationMode(interpolation)
        edge = list(size) if resize_mode == "squash" else min(size)
        self.steps = v2.Compose([v2.Resize(edge, interpolation=mode, antialias=True), v2.CenterCrop(size)])

    def __call__(self, image: Tensor, rng: random.Random | None = None) -> Tensor:
        """Resize and crop.

        Args:
            image: ``(3, H, W)`` uint8.
            rng: not used; training transforms take one.

        Returns:
            ``(3, H', W')`` uint8.
        """
        return cast(Tensor, self.steps(image))
