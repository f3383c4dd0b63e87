"""Scenes, how they are sampled, and which split they belong to."""

import hashlib
import random
from typing import NamedTuple

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
SIZES = {"small": 0.17, "large": 0.24}  # radius as a share of the image's width
TEXTURES = ("plain", "striped")
LAYOUTS = ("pair", "inside", "three", "group", "alone")
SPLITS = ("train", "validation", "test")

_NEAR, _FAR = 0.26, 0.74
_CORNERS = ((_NEAR, _NEAR), (_FAR, _NEAR), (_NEAR, _FAR), (_FAR, _FAR))
_CENTRE = (0.5, 0.5)
_CONTAINER, _CONTENT = 0.42, 0.18  # radii in the layout `inside`, where captions mention no sizes


class Thing(NamedTuple):
    """One object of a scene.

    ``x``, ``y`` (the centre, from the top left) and ``radius`` are shares of the image's width.
    """

    shape: str
    colour: str
    size: str  # "" where the layout decides it
    texture: str
    x: float
    y: float
    radius: float


class Scene(NamedTuple):
    """One to four things; every claim is decided by the things alone."""

    layout: str
    things: tuple[Thing, ...]


def sample_scene(rng: random.Random, layout: str, split: str) -> Scene:
    """Draw a scene that belongs to a split.

    Things differ in shape and in colour, so that a caption with either exchanged is false. The things of a group are
    alike.

    Args:
        rng: draws the scene.
        layout: one of ``LAYOUTS``.
        split: one of ``SPLITS``.

    Raises:
        ValueError: the layout or the split does not exist.
    """
    if layout not in LAYOUTS or split not in SPLITS:
        raise ValueError(f"layout {layout!r} must be one of {LAYOUTS}, split {split!r} one of {SPLITS}")
    while True:
        scene = Scene(layout, _things(rng, layout))
        if split_of(scene) == split:
            return scene


def split_of(scene: Scene) -> str:
    """Return the split of a scene: by a hash of its content, 80 % train, 10 % validation, 10 % test.

    So no scene is in two splits, whatever seeds were used.
    """
    text = repr((scene.layout, sorted(scene.things)))
    tenth = int(hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:8], 16) % 10
    return {0: "validation", 1: "test"}.get(tenth, "train")


def _things(rng: random.Random, layout: str) -> tuple[Thing, ...]:
    if layout == "alone":
        return _at(rng, [rng.choice([_CENTRE, *_CORNERS])])
    if layout == "pair":
        centres = rng.choice([[(_NEAR, 0.5), (_FAR, 0.5)], [(0.5, _NEAR), (0.5, _FAR)]])
        return _at(rng, centres)
    if layout == "three":
        return _at(rng, [(_NEAR, _NEAR), (_FAR, _NEAR), (0.5, _FAR)])
    if layout == "inside":
        outer, inner = _at(rng, [_CENTRE, _CENTRE])
        return outer._replace(size="", radius=_CONTAINER), inner._replace(size="", radius=_CONTENT)
    (thing,) = _at(rng, [_CENTRE])
    corners = rng.sample(_CORNERS, rng.randint(1, 4))
    return tuple(thing._replace(x=x, y=y) for x, y in sorted(corners))


def _at(rng: random.Random, centres: list[tuple[float, float]]) -> tuple[Thing, ...]:
    """Return things of different shapes and colours at the given centres."""
    shapes, colours = rng.sample(SHAPES, len(centres)), rng.sample(COLOURS, len(centres))
    things = []
    for shape, colour, (x, y) in zip(shapes, colours, centres, strict=True):
        size = rng.choice(list(SIZES))
        things.append(Thing(shape, colour, size, rng.choice(TEXTURES), x, y, SIZES[size]))
    return tuple(things)
