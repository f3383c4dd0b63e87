"""The outlines of the kinds of things: drawn shapes and capital letters."""

import functools
import math

from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]


def fill_mask(mask: Image.Image, kind: str, centre: Point, radius: float, turn: float = 0.0) -> None:
    """Fill the outline of a thing with white.

    Args:
        mask: of mode ``L``, black; changed in place.
        kind: a key of ``OUTLINES``, or a letter.
        centre: in pixels.
        radius: in pixels.
        turn: rotation in degrees, of drawn shapes only.
    """
    draw = ImageDraw.Draw(mask)
    if kind not in OUTLINES:
        draw.text(centre, kind.upper(), fill=255, font=_font(round(2.5 * radius)), anchor="mm")
        return
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    for number, points in enumerate(OUTLINES[kind]):
        turned = [
            (centre[0] + radius * (cos * x - sin * y), centre[1] + radius * (sin * x + cos * y)) for x, y in points
        ]
        draw.polygon(turned, fill=0 if number else 255)  # every outline but the first is a hole


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


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

# Unit outlines around the origin; every outline but the first is a hole in it.
OUTLINES: dict[str, list[list[Point]]] = {
    "circle": [ring(24, radius=0.95)],
    "square": [ring(4, start=-45, radius=1.2)],
    "triangle": [[(0, -1), (1, 0.85), (-1, 0.85)]],
    "star": [ring(5, radius=1.1, inner=0.45)],
    "cross": [[*_CROSS, *((-x, -y) for x, y in _CROSS)]],
    "heart": [_heart()],
    "moon": [ring(24), [(0.5 + 0.85 * x, 0.85 * y) for x, y in ring(24)]],
    "house": [[(0, -1), (0.9, -0.2), (0.65, -0.2), (0.65, 0.9), (-0.65, 0.9), (-0.65, -0.2), (-0.9, -0.2)]],
    "ring": [ring(24), ring(24, radius=0.55)],
    "arrow": [[(-1, -0.25), (0.1, -0.25), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.25), (-1, 0.25)]],
    "bolt": [[(0.2, -1), (-0.6, 0.15), (-0.05, 0.15), (-0.25, 1), (0.6, -0.25), (0.05, -0.25)]],
    "kite": [[(0, -1), (0.6, -0.3), (0, 1), (-0.6, -0.3)]],
    "hourglass": [[(-0.8, -1), (0.8, -1), (0.1, 0), (0.8, 1), (-0.8, 1), (-0.1, 0)]],
    "flag": [[(-0.7, -1), (0.8, -0.55), (-0.45, -0.05), (-0.45, 1), (-0.7, 1)]],
    "frame": [ring(4, -45, 1.3), ring(4, -45, 0.75)],
    "hexagon": [ring(6, 0)],
    "bar": [[(-1, -0.25), (1, -0.25), (1, 0.25), (-1, 0.25)]],
    "stairs": [
        [(-0.9, 0.9), (-0.9, 0.3), (-0.3, 0.3), (-0.3, -0.3), (0.3, -0.3), (0.3, -0.9), (0.9, -0.9), (0.9, 0.9)]
    ],
}
