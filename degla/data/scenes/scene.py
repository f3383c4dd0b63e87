"""Scenes, how they are sampled, and which split they belong to."""

import hashlib
import random
from typing import NamedTuple

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "moon", "house", "k", "m", "s", "z")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white", "orange", "cyan")
SIZES = {"small": 0.17, "large": 0.24}  # radius as a share of the image's width
TEXTURES = ("plain", "striped", "dotted", "chequered")
LAYOUTS = ("pair", "overlap", "three", "group", "alone")
SPLITS = ("train", "validation", "test")

# Kinds of things that the general tasks ask for: pre-training shows them in scenes too, fine-tuning never does.
HELD_OUT_SHAPES = ("ring", "arrow", "bolt", "kite", "hourglass", "flag", "frame", "hexagon", "bar", "stairs")
HELD_OUT_LETTERS = tuple("bcdefhjlnprtwxy")  # letters that look alike at 48 pixels are left out

_NEAR, _FAR = 0.26, 0.74
_CORNERS = ((_NEAR, _NEAR), (_FAR, _NEAR), (_NEAR, _FAR), (_FAR, _FAR))
_CENTRE = (0.5, 0.5)
_OVERLAP = 0.19  # distance between overlapping things along each axis


class Thing(NamedTuple):
    """One object of a scene.

    ``x``, ``y`` (the centre, from the top left) and ``radius`` are shares of the image's width.
    """

    shape: str
    colour: str
    size: str
    texture: str
    x: float
    y: float
    radius: float
    depth: int = 0  # a thing of depth 1 covers part of a thing of depth 0


class Scene(NamedTuple):
    """One to four things; every claim is decided by the things alone."""

    layout: str
    things: tuple[Thing, ...]


def sample_scene(rng: random.Random, layout: str, split: str, shapes: tuple[str, ...] = SHAPES) -> Scene:
    """Draw a scene that belongs to a split.

    Things differ in shape and in colour, so that a caption with either exchanged is false. The things of a group are
    alike.

    Args:
        rng: draws the scene.
        layout: one of ``LAYOUTS``.
        split: one of ``SPLITS``.
        shapes: kinds of things to draw from.

    Raises:
        ValueError: the layout or the split does not exist.
    """
    if layout not in LAYOUTS or split not in SPLITS:
        raise ValueError(f"layout {layout!r} must be one of {LAYOUTS}, split {split!r} one of {SPLITS}")
    while True:
        scene = Scene(layout, _things(rng, layout, shapes))
        if split_of(scene) == split:
            return scene


def split_of(scene: Scene) -> str:
    """Return the split of a scene: by a hash of its content, 80 % train, 10 % validation, 10 % test.

    So no scene is in two splits, whatever seeds were used.
    """
    text = repr((scene.layout, sorted(scene.things)))
    tenth = int(hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:8], 16) % 10
    return {0: "validation", 1: "test"}.get(tenth, "train")


def _things(rng: random.Random, layout: str, shapes: tuple[str, ...]) -> tuple[Thing, ...]:
    if layout == "alone":
        return _at(rng, [rng.choice([_CENTRE, *_CORNERS])], shapes)
    if layout == "pair":
        centres = rng.choice([[(_NEAR, 0.5), (_FAR, 0.5)], [(0.5, _NEAR), (0.5, _FAR)]])
        return _at(rng, centres, shapes)
    if layout == "three":
        return _at(rng, [(_NEAR, _NEAR), (_FAR, _NEAR), (0.5, _FAR)], shapes)
    if layout == "overlap":  # along a diagonal, and too close to be left, right, above or below
        dx, dy = rng.choice((-_OVERLAP, _OVERLAP)) / 2, rng.choice((-_OVERLAP, _OVERLAP)) / 2
        back, front = _at(rng, [(0.5 - dx, 0.5 - dy), (0.5 + dx, 0.5 + dy)], shapes)
        return back, front._replace(depth=1)
    (thing,) = _at(rng, [_CENTRE], shapes)
    corners = rng.sample(_CORNERS, rng.randint(1, 4))
    return tuple(thing._replace(x=x, y=y) for x, y in sorted(corners))


def _at(rng: random.Random, centres: list[tuple[float, float]], shapes: tuple[str, ...]) -> tuple[Thing, ...]:
    """Return things of different shapes and colours at the given centres."""
    kinds, colours = rng.sample(shapes, len(centres)), rng.sample(COLOURS, len(centres))
    things = []
    for shape, colour, (x, y) in zip(kinds, colours, centres, strict=True):
        size = rng.choice(list(SIZES))
        things.append(Thing(shape, colour, size, rng.choice(TEXTURES), x, y, SIZES[size]))
    return tuple(things)
