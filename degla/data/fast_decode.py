"""Decode JPEG files at a quarter or an eighth of their size, where the crop needs no more pixels.

The decoder leaves out the frequencies that resizing would remove, so the pixels differ a little from those of a whole
image (tests/data/test_fast_decode.py). That is why ``loader.fast_decode`` is off by default.

Shapes: H', W' of the model.
"""

import random
from collections.abc import Callable
from typing import cast

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from degla.data.image_files import ImageLimits, explain_damage, open_checked, read_file, to_rgb
from degla.data.images import decode
from degla.data.transforms import Box, TrainTransform

# By which libjpeg reduces an image while it decodes it. Halving one with Pillow takes longer than decoding all of it
# with torchcodec, which cannot reduce.
_FACTORS = (8, 4)
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def decode_and_transform(
    image_bytes: bytes | None,
    path: str | None,
    limits: ImageLimits,
    transform: Callable[[Tensor, random.Random], Tensor],
    rng: random.Random,
) -> Tensor:
    """Decode an image file and transform it, at reduced size where the transform allows it.

    Args:
        image_bytes: the encoded file; None reads ``path``.
        path: the file, also named in messages.
        limits: bounds of the size.
        transform: maps ``(3, H, W)`` uint8 and a random generator to ``(3, H', W')`` uint8.
        rng: draws the crop, which is the same at every size.

    Returns:
        ``(3, H', W')`` uint8.

    Raises:
        BadImage: see ``degla.data.images.decode``.
    """
    if not isinstance(transform, TrainTransform) or not transform.fast_decode:
        return transform(decode(image_bytes, path, limits), rng)
    data = image_bytes if image_bytes is not None else read_file(path or "")
    with explain_damage(path), open_checked(data, limits) as image:
        box = transform.box(image.height, image.width, rng)
        factor = _factor(box, transform.size)
        if image.format == "JPEG" and factor > 1:
            return _decode_reduced(image, box, factor, transform)
    return transform.crop(decode(data, path, limits), box)


def _factor(box: Box, size: list[int]) -> int:
    """Return by how much an image can be reduced so that its crop still has the model's size; 1 if it cannot."""
    return next((f for f in _FACTORS if box.height // f >= size[0] and box.width // f >= size[1]), 1)


def _decode_reduced(image: Image.Image, box: Box, factor: int, transform: TrainTransform) -> Tensor:
    image.draft(None, (image.width // factor, image.height // factor))
    # The scale is exactly 1 / factor, although the reduced size is rounded up: the last pixel is partly padding.
    left, top, right, bottom = box.left, box.top, box.left + box.width, box.top + box.height
    region = (left / factor, top / factor, right / factor, bottom / factor)
    resized = to_rgb(image).resize(
        (transform.size[1], transform.size[0]), _FILTERS[transform.interpolation.value], box=region
    )
    return cast(Tensor, F.pil_to_tensor(resized))
