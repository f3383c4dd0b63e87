"""Crop and resize pixels as uint8; normalization happens on the device.

Shapes: H, W of the file, H', W' of the model.
"""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple, cast

from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from degla.errors import ConfigError

_LOG_ASPECT = (math.log(3 / 4), math.log(4 / 3))  # bounds of a crop's width by height, as in torchvision


class Box(NamedTuple):
    """The part of an image that is kept, in its pixels."""

    top: int
    left: int
    height: int
    width: int


class TrainTransform:
    """Crops at random and resizes to the model's size.

    Args:
        size: H' and W' in pixels.
        scale: bounds of the crop's share of the area; open_clip and the authors use 0.9 to 1.
        interpolation: ``bicubic`` or ``bilinear``, as the model was trained.
        fast_decode: whether ``degla.data.fast_decode`` may decode the image at reduced size.
    """

    def __init__(
        self,
        size: tuple[int, int],
        scale: Sequence[float],
        interpolation: str = "bicubic",
        fast_decode: bool = False,
    ):
        self.size = list(size)
        self.scale = (scale[0], scale[1])
        self.interpolation = v2.InterpolationMode(interpolation)
        self.fast_decode = fast_decode

    def __call__(self, image: Tensor, rng: random.Random) -> Tensor:
        """Crop and resize.

        Args:
            image: ``(3, H, W)`` uint8.
            rng: draws the crop.

        Returns:
            ``(3, H', W')`` uint8.
        """
        return self.crop(image, self.box(image.shape[1], image.shape[2], rng))

    def crop(self, image: Tensor, box: Box) -> Tensor:
        """Return a part of an image at the model's size.

        Args:
            image: ``(3, H, W)`` uint8.
            box: the part.

        Returns:
            ``(3, H', W')`` uint8.
        """
        return cast(Tensor, F.resized_crop(image, *box, self.size, self.interpolation, antialias=True))

    def box(self, height: int, width: int, rng: random.Random) -> Box:
        """Draw a crop, distributed like that of torchvision's ``RandomResizedCrop``.

        torchvision's own class draws from PyTorch's global generator. Seeding that generator for one image and
        restoring it takes as long as decoding the image.

        Args:
            height: H of the image.
            width: W of the image.
            rng: of the draw.
        """
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            aspect = math.exp(rng.uniform(*_LOG_ASPECT))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return Box(rng.randint(0, height - h), rng.randint(0, width - w), h, w)
        narrowest, widest = math.exp(_LOG_ASPECT[0]), math.exp(_LOG_ASPECT[1])
        w, h = min(width, round(height * widest)), min(height, round(width / narrowest))
        return Box((height - h) // 2, (width - w) // 2, h, w)  # the largest allowed box, in the centre


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
