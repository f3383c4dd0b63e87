"""Draws scenes and single shapes, and encodes them as PNG."""

import io
import math
import random

from PIL import Image, ImageDraw

from degla.data.scenes.scene import Scene

RGB = {
    "red": (214, 48, 49),
    "green": (46, 160, 67),
    "blue": (50, 105, 230),
    "yellow": (240, 205, 40),
    "purple": (150, 70, 190),
    "white": (240, 240, 240),
}
_OVERSAMPLING = 3  # drawn larger and scaled down, for smooth edges
_JITTER = 0.02  # largest random shift of a thing, as a share of the image's width
_STRIPE = 2  # height of a stripe, and of the gap below it, in an image of 48 pixels

Point = tuple[float, float]


def png_bytes(scene: Scene, rng: random.Random, size: int = 48) -> bytes:
    """Draw a scene on a dark background, each thing with a small random shift and colour change.

    Args:
        scene: the things to draw.
        rng: draws background, shifts and colours.
        size: width and height in pixels.

    Returns:
        An encoded PNG file.
    """
    width = size * _OVERSAMPLING
    ground = (rng.randrange(10, 50),) * 3
    image = Image.new("RGB", (width, width), ground)
    for thing in sorted(
        scene.things, key=lambda thing: -thing.radius
    ):  # containers first, because they would cover their content
        x, y = (width * (centre + rng.uniform(-_JITTER, _JITTER)) for centre in (thing.x, thing.y))
        colour = tuple(max(0, min(255, part + rng.randrange(-12, 13))) for part in RGB[thing.colour])
        points = [(x + width * thing.radius * dx, y + width * thing.radius * dy) for dx, dy in OUTLINES[thing.shape]]
        fill_shape(image, [points], colour)
        if thing.texture == "striped":  # darker stripes; gaps would hide the shape
            fill_shape(image, [points], tuple(part * 4 // 10 for part in colour), striped=True)
    return encode_png(image, size)


def fill_shape(
    image: Image.Image,
    outlines: list[list[Point]],
    colour: tuple[int, ...],
    striped: bool = False,
) -> None:
    """Fill the first outline with a colour; further outlines are holes in it.

    Args:
        image: changed in place.
        outlines: polygons in pixels of ``image``.
        colour: RGB.
        striped: leave gaps between horizontal stripes.
    """
    mask = Image.new("L", image.size)
    draw = ImageDraw.Draw(mask)
    for number, points in enumerate(outlines):
        draw.polygon(points, fill=0 if number else 255)
    if striped:
        gap = _STRIPE * image.width // 48
        for top in range(0, image.height, 2 * gap):
            draw.rectangle((0, top, image.width, top + gap - 1), fill=0)
    image.paste(colour, mask=mask)


def encode_png(image: Image.Image, size: int) -> bytes:
    """Scale an image and return it as PNG.

    Args:
        image: square.
        size: width and height of the result in pixels.
    """
    buffer = io.BytesIO()
    image.resize((size, size), Image.Resampling.BOX).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def ring(corners: int, start: float = -90.0, radius: float = 1.0, inner: float | None = None) -> list[Point]:
    """Return a regular polygon around the origin, or a star.

    Args:
        corners: of the polygon, or points of the star.
        start: angle of the first corner in degrees.
        radius: of the corners.
        inner: radius of every second corner of a star; None draws a polygon.
    """
    count = corners if inner is None else 2 * corners
    return [
        (
            (radius if inner is None or not i % 2 else inner) * math.cos(math.radians(start + 360 * i / count)),
            (radius if inner is None or not i % 2 else inner) * math.sin(math.radians(start + 360 * i / count)),
        )
        for i in range(count)
    ]


def _heart() -> list[Point]:
    points = []
    for i in range(24):
        t = 2 * math.pi * i / 24
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((math.sin(t) ** 3, -y / 16))
    return points


_ARM = 0.34
_CROSS = [(-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM)]

OUTLINES: dict[str, list[Point]] = {
    "circle": ring(24, radius=0.95),
    "square": ring(4, start=-45, radius=1.2),
    "triangle": [(0, -1), (1, 0.85), (-1, 0.85)],
    "star": ring(5, radius=1.1, inner=0.45),
    "cross": [*_CROSS, *((-x, -y) for x, y in _CROSS)],
    "heart": _heart(),
}
