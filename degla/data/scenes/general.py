"""General zero-shot tasks, which are not part of fine-tuning on scenes and should not get worse by it."""

import functools
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from degla.data.scenes.draw import Point, encode_png, fill_shape, ring

_WIDTH = 96  # pixels of the drawing before it is scaled down

Painter = Callable[[random.Random, str, str], Image.Image]  # rng, class, split


class GeneralTask(NamedTuple):
    """A zero-shot classification task: every image has one class, every template gives one prompt per class."""

    classes: tuple[str, ...]
    templates: tuple[str, ...]
    paint: Painter


def general_examples(task: str, split: str, num_items: int, size: int = 48) -> Iterator[tuple[bytes, int]]:
    """Yield PNG and class number of each example, with all classes equally often; deterministic.

    Args:
        task: a key of ``GENERAL_TASKS``.
        split: ``train``, ``validation`` or ``test``; no handwritten digit is in two of them.
        num_items: number of examples.
        size: width and height in pixels.
    """
    rng = random.Random(f"{task} {split}")
    classes = GENERAL_TASKS[task].classes
    for number in range(num_items):
        label = number % len(classes)
        yield encode_png(GENERAL_TASKS[task].paint(rng, classes[label], split), size), label


def sample_general(rng: random.Random, size: int = 48) -> tuple[bytes, str]:
    """Draw a PNG and its caption for pre-training: a random task, class and template.

    Args:
        rng: draws all of it.
        size: width and height in pixels.
    """
    task = GENERAL_TASKS[rng.choice(_DRAWN)]
    name = rng.choice(task.classes)
    return encode_png(task.paint(rng, name, "train"), size), rng.choice(task.templates).format(name)


def _paint_digit(rng: random.Random, name: str, split: str) -> Image.Image:
    pixels = rng.choice(_digits()[split][DIGITS.index(name)])
    image = Image.fromarray((pixels * 15.9).astype(np.uint8)).resize((_WIDTH * 3 // 4,) * 2, Image.Resampling.BICUBIC)
    return _on_ground(rng, image)


@functools.cache
def _digits() -> dict[str, list[np.ndarray]]:
    """Return split -> class -> ``(M, 8, 8)``, values 0 to 16 (Alpaydin & Kaynak 1998; part of scikit-learn)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    bounds = {"train": slice(0, 1297), "validation": slice(1297, 1497), "test": slice(1497, None)}
    return {
        split: [data.images[part][data.target[part] == digit] for digit in range(10)] for split, part in bounds.items()
    }


def _paint_letter(rng: random.Random, name: str, split: str) -> Image.Image:
    mask = Image.new("L", (_WIDTH, _WIDTH))
    font = _font(rng.randrange(60, 84))
    ImageDraw.Draw(mask).text((_WIDTH / 2, _WIDTH / 2), name.upper(), fill=255, font=font, anchor="mm")
    return _on_ground(rng, mask.rotate(rng.uniform(-10, 10), Image.Resampling.BILINEAR))


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _on_ground(rng: random.Random, mask: Image.Image) -> Image.Image:
    """Paint ``mask`` in light grey on a dark background, near the centre."""
    image = Image.new("RGB", (_WIDTH, _WIDTH), _grey(rng, 10, 50))
    left, top = ((_WIDTH - mask.width) // 2 + rng.randrange(-6, 7) for _ in range(2))
    image.paste(_grey(rng, 190, 250), (left, top), mask)
    return image


def _paint_colour(rng: random.Random, name: str, split: str) -> Image.Image:
    colour = tuple(max(0, min(255, part + rng.randrange(-12, 13))) for part in PLAIN_COLOURS[name])
    return Image.new("RGB", (_WIDTH, _WIDTH), colour)


def _paint_texture(rng: random.Random, name: str, split: str) -> Image.Image:
    y, x = np.mgrid[:_WIDTH, :_WIDTH] / _WIDTH
    x, y = x + rng.random(), y + rng.random()
    period = rng.choice([4, 5, 6])
    share = TEXTURE_PATTERNS[name](x * period, y * period, rng)[..., None]
    dark, light = (np.array([rng.randrange(low, low + 90) for _ in range(3)]) for low in (10, 160))
    return Image.fromarray((dark + (light - dark) * np.clip(share, 0, 1)).astype(np.uint8))


def _paint_shape(rng: random.Random, name: str, split: str) -> Image.Image:
    image = Image.new("RGB", (_WIDTH, _WIDTH), _grey(rng, 10, 50))
    radius = _WIDTH * rng.uniform(0.28, 0.38)
    x, y = (_WIDTH / 2 + rng.uniform(-5, 5) for _ in range(2))
    outlines = [[(x + radius * dx, y + radius * dy) for dx, dy in points] for points in HELD_OUT_SHAPES[name]]
    fill_shape(image, outlines, tuple(rng.randrange(110, 256) for _ in range(3)))
    return image


def _grey(rng: random.Random, low: int, high: int) -> tuple[int, int, int]:
    return (rng.randrange(low, high),) * 3


DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# Letters that look alike at 48 pixels are left out.
LETTERS = tuple("abcdefhjklmnprstwxyz")

# None of these colours occurs in scenes.
PLAIN_COLOURS = {
    "black": (15, 15, 15),
    "grey": (128, 128, 128),
    "brown": (105, 60, 25),
    "orange": (245, 140, 25),
    "pink": (250, 160, 195),
    "navy": (20, 25, 100),
    "cyan": (50, 225, 230),
    "olive": (115, 115, 25),
    "lime": (160, 245, 40),
    "maroon": (110, 10, 35),
    "beige": (225, 205, 165),
    "magenta": (225, 30, 200),
}


def _wave(x: np.ndarray) -> np.ndarray:
    return 0.5 + 2 * np.sin(2 * np.pi * x)


TEXTURE_PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray, random.Random], np.ndarray]] = {
    "chequered": lambda x, y, rng: (np.floor(2 * x) + np.floor(2 * y)) % 2,
    "dotted": lambda x, y, rng: (0.28 - np.hypot(x % 1 - 0.5, y % 1 - 0.5)) * 12,
    "banded": lambda x, y, rng: _wave(y),
    "columned": lambda x, y, rng: _wave(x),
    "diagonal": lambda x, y, rng: _wave(x + y),
    "gridded": lambda x, y, rng: ((x % 1 < 0.2) | (y % 1 < 0.2)).astype(float),
    "wavy": lambda x, y, rng: _wave(y + 0.35 * np.sin(2 * np.pi * x * 0.7)),
    "bricked": lambda x, y, rng: 1.0 - ((2 * y % 1 < 0.2) | ((x + np.floor(2 * y) % 2 / 2) % 1 < 0.12)),
    "noisy": lambda x, y, rng: np.random.default_rng(rng.getrandbits(32)).random(x.shape),
    "ringed": lambda x, y, rng: _wave(np.hypot(x - x.mean(), y - y.mean())),
    "smooth": lambda x, y, rng: (x - x.min()) / np.ptp(x),
    "zigzag": lambda x, y, rng: _wave(y + np.abs(x % 1 - 0.5)),
}

HELD_OUT_SHAPES: dict[str, list[list[Point]]] = {
    "ring": [ring(24), ring(24, radius=0.55)],
    "arrow": [[(-1, -0.25), (0.1, -0.25), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.25), (-1, 0.25)]],
    "moon": [ring(24), [(0.5 + 0.85 * x, 0.85 * y) for x, y in ring(24)]],
    "house": [[(0, -1), (0.9, -0.2), (0.65, -0.2), (0.65, 0.9), (-0.65, 0.9), (-0.65, -0.2), (-0.9, -0.2)]],
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

GENERAL_TASKS = {
    "digits": GeneralTask(
        DIGITS,
        ("the digit {}", "a handwritten {}", "the number {}", "a picture of the digit {}"),
        _paint_digit,
    ),
    "letters": GeneralTask(
        LETTERS,
        ("the letter {}", "a printed {}", "the capital letter {}", "a picture of the letter {}"),
        _paint_letter,
    ),
    "textures": GeneralTask(
        tuple(TEXTURE_PATTERNS),
        ("a {} texture", "a {} surface", "a {} pattern", "a picture of a {} texture"),
        _paint_texture,
    ),
    "colours": GeneralTask(
        tuple(PLAIN_COLOURS),
        ("the colour {}", "plain {}", "a {} wall", "a picture of the colour {}"),
        _paint_colour,
    ),
    "shapes": GeneralTask(
        tuple(HELD_OUT_SHAPES),
        ("the shape of a {}", "a drawing of a {}", "a {} shape", "a picture of one {} shape"),
        _paint_shape,
    ),
}

# Tasks of pre-training samples; the harder ones are repeated, so they are drawn more often.
_DRAWN = ("digits",) * 3 + ("letters",) * 3 + ("textures",) * 2 + ("colours", "shapes")
