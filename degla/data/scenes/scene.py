"""What is in a scene, and to which split it belongs."""

import hashlib
import random
from typing import NamedTuple

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
SIZES = {"small": 0.17, "large": 0.24}  # radius as a share of the picture's width
TEXTURES = ("plain", "striped")
LAYOUTS = ("pair", "inside", "three", "group", "alone")
SPLITS = ("train", "validation", "test")

_NEAR, _FAR = 0.26, 0.74
_CORNERS = ((_NEAR, _NEAR), (_FAR, _NEAR), (_NEAR, _FAR), (_FAR, _FAR))
_CENTRE = (0.5, 0.5)
_CONTAINER, _CONTENT = 0.42, 0.18  # radii in the layout `inside`, where sizes are not spoken of


class Thing(NamedTuple):
    """One object. ``x``, ``y`` (its centre, from the top left) and ``radius`` are shares of the picture's width."""

    shape: str
    colour: str
    size: str  # "" where the layout fixes it
    texture: str
    x: float
    y: float
    radius: float


class Scene(NamedTuple):
    """One to four things; all facts about them follow from the things alone."""

    layout: str
    things: tuple[Thing, ...]


def sample_scene(rng: random.Random, layout: str, split: str) -> Scene:
    """A random scene of ``layout`` that belongs to ``split``.

    Things differ in shape and in colour, so that an exchange of either is false; those of a group are alike.

    Raises:
        ValueError: no such layout or split.
    """
    if layout not in LAYOUTS or split not in SPLITS:
        raise ValueError(f"layout {layout!r} must be one of {LAYOUTS}, split {split!r} one of {SPLITS}")
    while True:
        scene = Scene(layout, _things(rng, layout))
        if split_of(scene) == split:
            return scene


def split_of(scene: Scene) -> str:
    """The split of a scene, decided by what is in it: eight tenths train, one validation, one test.

    So no scene is in two splits, whatever seeds they were drawn with.
    """
    text = repr((scene.layout, sorted(scene.things)))
    tenth = int(hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:8], 16) % 10
    return {0: "validation", 1: "test"}.get(tenth, "train")


def _things(rng: random.Random, layout: str) -> tuple[Thing, ...]:
    if layout == "alone":
        return _at(rng, [rng.choice([_CENTRE, *_CORNERS])])
    if layout == "pair":
        row = rng.choice([[(_NEAR, 0.5), (_FAR, 0.5)], [(0.5, _NEAR), (0.5, _FAR)]])
        return _at(rng, row)
    if layout == "three":
        return _at(rng, [(_NEAR, _NEAR), (_FAR, _NEAR), (0.5, _FAR)])
    if layout == "inside":
        outer, inner = _at(rng, [_CENTRE, _CENTRE])
        return outer._replace(size="", radius=_CONTAINER), inner._replace(size="", radius=_CONTENT)
    (thing,) = _at(rng, [_CENTRE])
    places = rng.sample(_CORNERS, rng.randint(1, 4))
    return tuple(thing._replace(x=x, y=y) for x, y in sorted(places))


def _at(rng: random.Random, places: list[tuple[float, float]]) -> tuple[Thing, ...]:
    """Things of different shapes and colours."""
    shapes, colours = rng.sample(SHAPES, len(places)), rng.sample(COLOURS, len(places))
    things = []
    for shape, colour, (x, y) in zip(shapes, colours, places, strict=True):
        size = rng.choice(list(SIZES))
        things.append(Thing(shape, colour, size, rng.choice(TEXTURES), x, y, SIZES[size]))
    return tuple(things)
