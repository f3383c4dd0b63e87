"""Decode image files to pixels.

The files are opened and checked by ``degla.data.image_files``.
"""

import contextlib
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor
from torchvision.transforms.v2 import functional as F

from degla.data.image_files import FORMATS, BadImage, ImageLimits, explain_damage, open_checked, read_file, to_rgb

__all__ = ["FORMATS", "BadImage", "ImageLimits", "decode", "read_file"]

# torchcodec is twice as fast as Pillow and gives the same pixels (tests/data/test_images.py). It may be missing or
# built for another version of torch.
decode_jpeg: Callable[..., Any] | None
try:
    from torchcodec import decoders
except (ImportError, RuntimeError, OSError):
    decode_jpeg = None
else:
    decode_jpeg = decoders.decode_jpeg


def decode(image_bytes: bytes | None, path: str | None, limits: ImageLimits = ImageLimits()) -> Tensor:  # noqa: B008
    """Decode a whole image; of an animation, the first frame.

    16-bit images are scaled to 8 bits. Float images must have values from 0 to 1 or from 0 to 255. Images of
    32-bit integers must have values of 8 or 16 bits.

    Args:
        image_bytes: the encoded file; None reads ``path``.
        path: the file, also named in messages.
        limits: bounds of the size.

    Returns:
        ``(3, H, W)`` uint8, RGB.

    Raises:
        BadImage: the file is missing, not a regular file, empty, truncated, damaged, of another format, or beyond the
            limits.
    """
    data = image_bytes if image_bytes is not None else read_file(path or "")
    with explain_damage(path), open_checked(data, limits) as image:
        if decode_jpeg and image.format == "JPEG":
            with contextlib.suppress(RuntimeError, ValueError):  # then Pillow decides, and names the reason
                return cast(Tensor, decode_jpeg(data, mode="RGB"))
        return cast(Tensor, F.pil_to_tensor(to_rgb(image)))
