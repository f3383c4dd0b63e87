"""A scene, its picture, and what can be claimed of it."""

import io
import random
from typing import NamedTuple

from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "diamond")
COLOURS = {
    "red": (214, 48, 49),
    "green": (46, 160, 67),
    "blue": (40, 98, 220),
    "yellow": (240, 200, 30),
    "purple": (140, 60, 180),
    "white": (245, 245, 245),
}
SIZES = {"small": 0.13, "large": 0.22}  # radius as a share of the picture's width
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
_OVERSAMPLING = 4  # drawn larger and scaled down, for smooth edges


class Thing(NamedTuple):
    """One object."""

    size: str
    colour: str
    shape: str


class Claim(NamedTuple):
    """What a caption says: the first thing stands in a relation to the second."""

    first: Thing
    relation: str
    second: Thing


class Scene(NamedTuple):
    """Two different things; ``relation`` is where the first stands, seen from the second."""

    first: Thing
    second: Thing
    relation: str


def sample_scene(rng: random.Random) -> Scene:
    """A random scene whose two things differ in shape and in colour, so that swapping either is false."""
    shapes, colours = rng.sample(SHAPES, 2), rng.sample(list(COLOURS), 2)
    first, second = (
        Thing(rng.choice(list(SIZES)), colour, shape) for colour, shape in zip(colours, shapes, strict=True)
    )
    return Scene(first, second, rng.choice(list(RELATIONS)))


def is_true(claim: Claim, scene: Scene) -> bool:
    """Whether ``claim`` holds: read from either side, since left of is right of the other way round."""
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    forward = Claim(scene.first, scene.relation, scene.second)
    backward = Claim(scene.second, opposite[scene.relation], scene.first)
    return claim in (forward, backward)


def png_bytes(scene: Scene, rng: random.Random, size: int = 64) -> bytes:
    """Draw ``scene`` at a random place on a dark ground.

    Returns:
        A PNG of ``size`` x ``size`` pixels.
    """
    width = size * _OVERSAMPLING
    grey = rng.randrange(10, 60)
    image = Image.new("RGB", (width, width), (grey, grey, grey))
    draw = ImageDraw.Draw(image)
    dx, dy = RELATIONS[scene.relation]
    centre_x, centre_y = (width * rng.uniform(0.45, 0.55) for _ in range(2))
    distance = width * 0.24
    for thing, side in ((scene.first, 1), (scene.second, -1)):
        x, y = centre_x + side * dx * distance, centre_y + side * dy * distance
        _draw(draw, thing, x, y, width * SIZES[thing.size])
    buffer = io.BytesIO()
    image.resize((size, size), Image.Resampling.LANCZOS).save(buffer, "PNG")
    return buffer.getvalue()


def _draw(draw: ImageDraw.ImageDraw, thing: Thing, x: float, y: float, r: float) -> None:
    colour = COLOURS[thing.colour]
    if thing.shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif thing.shape == "square":
        draw.rectangle((x - 0.9 * r, y - 0.9 * r, x + 0.9 * r, y + 0.9 * r), fill=colour)
    elif thing.shape == "triangle":
        draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=colour)
    else:
        draw.polygon([(x, y - 1.2 * r), (x + 0.8 * r, y), (x, y + 1.2 * r), (x - 0.8 * r, y)], fill=colour)
