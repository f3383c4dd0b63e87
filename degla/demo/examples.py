"""Example images for a first try: drawn scenes with their captions."""

import random
from typing import NamedTuple

from degla.data.scenes import caption_of, hard_negatives, png_bytes, sample_claim, sample_scene

_SIZE = 240  # pixels; models scale them down to their own input
_LAYOUTS = ("pair", "pair", "overlap", "group", "three", "alone")


class Example(NamedTuple):
    """A scene of the test split, which no run has trained on."""

    image_bytes: bytes  # a PNG file
    caption: str  # true of the image
    negatives: tuple[str, ...]  # false of it


def example_scenes(count: int = 4) -> list[Example]:
    """Draw scenes; always the same ones.

    Args:
        count: number of examples.
    """
    rng = random.Random("degla-try")
    examples = []
    for number in range(count):
        layout = _LAYOUTS[number % len(_LAYOUTS)]
        scene = sample_scene(rng, layout, "test")
        claim = sample_claim(scene, rng, "related" if layout in ("pair", "overlap") else None)
        texts = [negative.text for negative in hard_negatives(scene, claim, 0, rng)]
        caption = caption_of(claim, 0)
        examples.append(Example(png_bytes(scene, rng, _SIZE), caption, tuple(dict.fromkeys(texts))))
    return examples
