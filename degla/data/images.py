"""Decode image files to pixels.

Image files are untrusted. So only regular files are opened, only a few formats are decoded, recognized by
their content and not by their name, and the header is checked before memory is allocated.
"""

import contextlib
import io
import os
import stat
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as F

# torchcodec is twice as fast as Pillow and gives the same pixels (tests/data/test_images.py). It may be missing or
# built for another version of torch.
decode_jpeg: Callable[..., Any] | None
try:
    from torchcodec import decoders
except (ImportError, RuntimeError, OSError):
    decode_jpeg = None
else:
    decode_jpeg = decoders.decode_jpeg

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # as Pillow names them; everything else is refused

_MAX_BYTES = 2**30  # of a file; a larger one is not a photo
_MAX_PILLOW_PIXELS = 178_956_970  # Pillow refuses images of more pixels, whatever our limit is

# First bytes of files that are often named .jpg, for the message. (offset, bytes) -> name.
_OTHER_FORMATS = {
    (0, b"%!PS"): "PostScript",
    (0, b"%PDF"): "PDF",
    (0, b"<"): "HTML, XML or SVG",
    (4, b"ftypavif"): "AVIF",
    (4, b"ftypheic"): "HEIC",
    (4, b"ftypmif1"): "HEIF",
    (0, b"DDS "): "DDS",
    (0, b"BLP"): "BLP",
    (0, b"8BPS"): "Photoshop",
    (0, b"\x00\x00\x00\x0cjP"): "JPEG 2000",
    (0, b"\xff\x4f\xff\x51"): "JPEG 2000",
    (0, b"\xff\x0a"): "JPEG XL",
    (0, b"version https://git-lfs"): "a Git LFS pointer",
}


class BadImage(Exception):
    """An image file that cannot be decoded; the message says why."""


class ImageLimits(NamedTuple):
    """Bounds of an image's size, checked before it is decoded."""

    max_pixels: int = 100_000_000
    max_aspect: float = 50.0  # longer by shorter side; resizing the shorter side enlarges the longer one with it


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
    try:
        return _decode(data, limits)
    except BadImage as error:
        raise BadImage(f"{error}: {path}") from error
    except MemoryError:
        raise  # the machine's fault, not the file's
    except Exception as error:  # decoders raise dozens of types for damaged files
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadImage(f"{reason}: {path}") from error


def read_file(path: str) -> bytes:
    """Read a regular file; a FIFO would block forever, and a device may never end.

    Args:
        path: the file.

    Raises:
        BadImage: there is no such file, it is not a regular file, or it cannot be read.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise BadImage(f"no such file: {path}") from error
    except (OSError, ValueError) as error:
        raise BadImage(f"{getattr(error, 'strerror', None) or error}: {path!r}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadImage(f"not a regular file: {path}")
        if status.st_size > _MAX_BYTES:
            raise BadImage(f"a file of {status.st_size} bytes is too large for an image: {path}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    except OSError as error:
        raise BadImage(f"{error.strerror}: {path}") from error
    finally:
        os.close(descriptor)


def _decode(data: bytes, limits: ImageLimits) -> Tensor:
    if not data:
        raise BadImage("empty file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on sizes, which our limits check, and on damage, which raises an error
        with _open(data) as image:  # reads the header only
            _check_size(image.width, image.height, limits)
            if decode_jpeg and image.format == "JPEG":
                with contextlib.suppress(RuntimeError, ValueError):  # then Pillow decides, and names the reason
                    return cast(Tensor, decode_jpeg(data, mode="RGB"))
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                return _gray_to_rgb(np.asarray(image))
            return cast(Tensor, F.pil_to_tensor(image.convert("RGB")))


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:  # its message contains a memory address, which differs between runs
        seen = [name for (offset, first), name in _OTHER_FORMATS.items() if data[offset:].startswith(first)]
        reason = f"not an image that can be read ({seen[0]})" if seen else "not an image"
        raise BadImage(reason) from error


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > min(limits.max_pixels, _MAX_PILLOW_PIXELS):
        raise BadImage(f"{width} x {height} pixels are more than loader.max_image_pixels={limits.max_pixels}")
    if max(width, height) > limits.max_aspect * min(width, height):
        raise BadImage(
            f"{width} x {height} pixels are longer than loader.max_image_aspect={limits.max_aspect:g} allows"
        )


def _gray_to_rgb(pixels: np.ndarray) -> Tensor:
    """Scale ``(H, W)`` gray values of more than 8 bits to ``(3, H, W)`` uint8; Pillow would clip them to white."""
    if pixels.dtype.kind == "u":  # 16 bits, of either byte order
        values = pixels / 257
    else:
        values = pixels.astype(np.float64)
        if not np.isfinite(values).all():
            raise BadImage("pixels that are not finite")
        lowest, highest = values.min(), values.max()
        if np.issubdtype(pixels.dtype, np.floating) and highest <= 1:
            values = values * 255
        elif np.issubdtype(pixels.dtype, np.integer) and 255 < highest <= 65535:
            values = values / 257
        if lowest < 0 or values.max() > 255:
            raise BadImage(
                f"pixels from {lowest:g} to {highest:g}, whose range is not known; save it with 8 or 16 bits"
            )
    gray = torch.from_numpy(np.rint(values).astype(np.uint8))
    return gray.expand(3, *gray.shape).contiguous()
