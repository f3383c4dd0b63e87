"""Draws scenes on varied backgrounds, and encodes them as PNG."""

import functools
import io
import random

import numpy as np
from PIL import Image, ImageDraw

from degla.data.scenes.outlines import fill_mask
from degla.data.scenes.scene import Scene

RGB = {
    "red": (214, 48, 49),
    "green": (46, 160, 67),
    "blue": (50, 105, 230),
    "yellow": (240, 205, 40),
    "purple": (150, 70, 190),
    "white": (240, 240, 240),
    "orange": (245, 140, 25),
    "cyan": (50, 225, 230),
}
_OVERSAMPLING = 3  # drawn larger and scaled down, for smooth edges
_JITTER = 0.04  # largest random shift of a thing, as a share of the image's width
_OVERLAP_JITTER = 0.01  # the same where things overlap, because a shift could hide one or part the two
_PATTERN = 2  # width of a stripe, dot or square of a texture, in an image of 48 pixels
_NUM_GROUNDS = 64

Colour = tuple[int, ...]


def png_bytes(scene: Scene, rng: random.Random, size: int = 48) -> bytes:
    """Draw a scene on a dark background, each thing with a small random shift, turn, scale and colour change.

    Args:
        scene: the things to draw.
        rng: draws background, shifts and colours.
        size: width and height in pixels.

    Returns:
        An encoded PNG file.
    """
    width = size * _OVERSAMPLING
    image = ground(rng, width)
    jitter = _OVERLAP_JITTER if scene.layout == "overlap" else _JITTER
    for thing in sorted(scene.things, key=lambda thing: thing.depth):
        x, y = (width * (centre + rng.uniform(-jitter, jitter)) for centre in (thing.x, thing.y))
        radius = width * thing.radius * rng.uniform(0.93, 1.07)
        paint_thing(image, thing.shape, (x, y), radius, nearby(rng, RGB[thing.colour]), thing.texture, rng)
    return encode_png(image, size)


def paint_thing(
    image: Image.Image,
    shape: str,
    centre: tuple[float, float],
    radius: float,
    colour: Colour,
    texture: str,
    rng: random.Random,
) -> None:
    """Paint one thing.

    Args:
        image: changed in place.
        shape: kind of the thing.
        centre: in pixels.
        radius: in pixels.
        colour: RGB.
        texture: one of ``TEXTURES``; its pattern is a darker shade, because gaps would hide the shape.
        rng: draws a small turn.
    """
    mask = Image.new("L", image.size)
    fill_mask(mask, shape, centre, radius, turn=rng.uniform(-8, 8))
    image.paste(colour, mask=mask)
    if texture != "plain":
        shade = tuple(part * 4 // 10 for part in colour)
        pattern = Image.new("L", image.size)
        pattern.paste(mask, mask=_pattern(texture, image.width))
        image.paste(shade, mask=pattern)


def ground(rng: random.Random, width: int) -> Image.Image:
    """Return a dark background: plain, shaded, noisy or faintly striped.

    Args:
        rng: chooses one of a fixed set.
        width: and height in pixels.
    """
    return _ground(rng.randrange(_NUM_GROUNDS), width).copy()


def nearby(rng: random.Random, colour: Colour) -> Colour:
    """Return a colour that differs a little from another one.

    Args:
        rng: draws the difference.
        colour: RGB, 0 to 255.
    """
    return tuple(max(0, min(255, part + rng.randrange(-12, 13))) for part in colour)


def encode_png(image: Image.Image, size: int) -> bytes:
    """Scale an image and return it as PNG.

    Args:
        image: square.
        size: width and height of the result in pixels.
    """
    buffer = io.BytesIO()
    image.resize((size, size), Image.Resampling.BOX).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@functools.cache
def _pattern(texture: str, width: int) -> Image.Image:
    """Return the mask of a texture's dark parts."""
    step = _PATTERN * width // 48
    mask = Image.new("L", (width, width))
    draw = ImageDraw.Draw(mask)
    for row, top in enumerate(range(0, width, 2 * step)):
        if texture == "striped":
            draw.rectangle((0, top, width, top + step - 1), fill=255)
            continue
        for left in range(0, width, 2 * step):
            if texture == "dotted":
                shift = step if row % 2 else 0
                draw.ellipse((left + shift, top, left + shift + 1.3 * step, top + 1.3 * step), fill=255)
            else:
                side = 2 * step
                if (row + left // side) % 2:
                    draw.rectangle((left, top, left + side - 1, top + side - 1), fill=255)
    return mask


@functools.cache
def _ground(number: int, width: int) -> Image.Image:
    rng = np.random.default_rng(number)
    base = rng.uniform(10, 45, size=3) * 0.4 + rng.uniform(10, 45) * 0.6
    y, x = np.mgrid[:width, :width] / width
    pattern = [
        np.zeros_like(x),
        rng.uniform(-14, 14) * (x - 0.5) + rng.uniform(-14, 14) * (y - 0.5),
        np.kron(rng.normal(0, 5, size=(12, 12)), np.ones((width // 12 + 1, width // 12 + 1)))[:width, :width],
        5 * np.sin(2 * np.pi * (x * rng.integers(1, 5) + y * rng.integers(1, 5))),
    ][number % 4]
    return Image.fromarray(np.clip(base + pattern[..., None], 0, 255).astype(np.uint8))
