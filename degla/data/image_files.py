"""Open and check image files, and decode them with Pillow.

Image files are untrusted. So only regular files are opened, only a few formats are decoded, recognized by
their content and not by their name, and the header is checked before memory is allocated. Imports no torch.
"""

import contextlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

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


def read_file(path: str, span: tuple[int, int] | None = None) -> bytes:
    """Read a regular file; a FIFO would block forever, and a device may never end.

    Args:
        path: the file.
        span: first byte and number of bytes of a part of it; None reads the whole file.

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
        start, num_bytes = span or (0, status.st_size)
        if num_bytes > _MAX_BYTES:
            raise BadImage(f"a file of {num_bytes} bytes is too large for an image: {path}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            file.seek(start)
            return file.read() if span is None else file.read(num_bytes)
    except OSError as error:
        raise BadImage(f"{error.strerror}: {path}") from error
    finally:
        os.close(descriptor)


def open_checked(data: bytes, limits: ImageLimits) -> Image.Image:
    """Read the header of an encoded image and check its size; nothing is decoded yet.

    Args:
        data: the encoded file.
        limits: bounds of the size.

    Raises:
        BadImage: the file is empty, of another format, or beyond the limits.
    """
    if not data:
        raise BadImage("empty file")
    image = _open(data)
    _check_size(image.width, image.height, limits)
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode an opened image to 8 bits and three channels; of an animation, the first frame.

    Raises:
        BadImage: its pixel values are of an unknown range.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    return image.convert("RGB")


def load_rgb(path: str, limits: ImageLimits = ImageLimits()) -> Image.Image:  # noqa: B008
    """Decode a whole image file, as ``degla.data.images.decode`` does, without torch.

    Args:
        path: the file, also named in messages.
        limits: bounds of the size.

    Raises:
        BadImage: see ``degla.data.images.decode``.
    """
    data = read_file(path)
    with explain_damage(path), open_checked(data, limits) as image:
        return to_rgb(image)


@contextlib.contextmanager
def explain_damage(path: str | None) -> Iterator[None]:
    """Turn every error of a decoder into a ``BadImage`` that names the file, and silence the decoder's warnings.

    Args:
        path: the file.

    Raises:
        BadImage: the block raised an error.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on sizes, which our limits check, and on damage, which raises an error
            yield
    except BadImage as error:
        raise BadImage(f"{error}: {path}") from error
    except MemoryError:
        raise  # the machine's fault, not the file's
    except Exception as error:  # decoders raise dozens of types for damaged files
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadImage(f"{reason}: {path}") from error


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


def _to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Scale ``(H, W)`` gray values of more than 8 bits to uint8; Pillow would clip them to white."""
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
    scaled: np.ndarray = np.rint(values).astype(np.uint8)
    return scaled
