"""General zero-shot tasks, which are not part of fine-tuning on scenes and should not get worse by it."""

import functools
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from degla.data.scenes.draw import RGB, encode_png, ground, nearby, paint_thing
from degla.data.scenes.scene import COLOURS, HELD_OUT_LETTERS, HELD_OUT_SHAPES, TEXTURES

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
    mask = Image.fromarray((pixels * 15.9).astype(np.uint8)).resize((_WIDTH * 3 // 4,) * 2, Image.Resampling.BICUBIC)
    image = ground(rng, _WIDTH)
    left, top = ((_WIDTH - mask.width) // 2 + rng.randrange(-6, 7) for _ in range(2))
    image.paste(nearby(rng, RGB[rng.choice(COLOURS)]), (left, top), mask)
    return image


@functools.cache
def _digits() -> dict[str, list[np.ndarray]]:
    """Return split -> class -> ``(M, 8, 8)``, values 0 to 16 (Alpaydin & Kaynak 1998; part of scikit-learn)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    bounds = {"train": slice(0, 1297), "validation": slice(1297, 1497), "test": slice(1497, None)}
    return {
        split: [data.images[part][data.target[part] == digit] for digit in range(10)] for split, part in bounds.items()
    }


def _paint_thing(rng: random.Random, name: str, split: str) -> Image.Image:
    """Paint a shape or a letter as scenes do: coloured, sometimes with a texture, on a background."""
    image = ground(rng, _WIDTH)
    x, y = (_WIDTH / 2 + rng.uniform(-12, 12) for _ in range(2))
    colour = nearby(rng, RGB[rng.choice(COLOURS)])
    texture = rng.choice(TEXTURES) if rng.random() < 0.5 else "plain"
    paint_thing(image, name, (x, y), _WIDTH * rng.uniform(0.2, 0.36), colour, texture, rng)
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


DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# None of these colours occurs in scenes.
PLAIN_COLOURS = {
    "black": (15, 15, 15),
    "grey": (128, 128, 128),
    "brown": (105, 60, 25),
    "pink": (250, 160, 195),
    "navy": (20, 25, 100),
    "olive": (115, 115, 25),
    "lime": (160, 245, 40),
    "maroon": (110, 10, 35),
    "beige": (225, 205, 165),
    "magenta": (225, 30, 200),
}


def _wave(x: np.ndarray) -> np.ndarray:
    return 0.5 + 2 * np.sin(2 * np.pi * x)


TEXTURE_PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray, random.Random], np.ndarray]] = {
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

GENERAL_TASKS = {
    "digits": GeneralTask(
        DIGITS,
        ("the digit {}", "a handwritten {}", "the number {}", "a picture of the digit {}"),
        _paint_digit,
    ),
    "letters": GeneralTask(
        HELD_OUT_LETTERS,
        ("the letter {}", "a printed {}", "the capital letter {}", "a picture of the letter {}"),
        _paint_thing,
    ),
    "textures": GeneralTask(
        tuple(TEXTURE_PATTERNS),
        ("a {} texture", "a {} surface", "a {} pattern", "a picture of a {} texture"),
        _paint_texture,
    ),
    "colours": GeneralTask(
        tuple(PLAIN_COLOURS),
        ("the colour {}", "plain {}", "the {} wall", "a picture of the colour {}"),
        _paint_colour,
    ),
    "shapes": GeneralTask(
        HELD_OUT_SHAPES,
        ("the shape of the {}", "a drawing of the {}", "the {} shape", "a picture of one {}"),
        _paint_thing,
    ),
}

# Tasks of pre-training samples; the harder ones are repeated, so they are drawn more often.
_DRAWN = ("digits",) * 3 + ("letters",) * 3 + ("textures",) * 2 + ("colours", "shapes")
