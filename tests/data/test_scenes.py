"""Captions are true of the picture and negatives false, judged from the pixels and by plain string reading."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from degla.data.scenes import Claim, caption_of, hard_negatives, png_bytes, sample_scene
from degla.data.scenes.captions import TEMPLATES
from degla.data.scenes.scene import COLOURS, RELATIONS, SHAPES
from degla.data.schema import NEGATIVE_TYPES


def centres(png):
    """Colour name -> centre of its pixels: what a person would see."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    found = {}
    for name, colour in COLOURS.items():
        near = np.abs(pixels - np.array(colour)).sum(-1) < 30
        if near.sum() > 12:
            rows, columns = np.nonzero(near)
            found[name] = (columns.mean(), rows.mean())
    return found


def read(text):
    """(colour, shape) pairs and the relation, by looking for the words."""
    words = text.split()
    things = [(words[i - 1], word) for i, word in enumerate(words) if word in SHAPES]
    relation = next(r for r in RELATIONS if r in text)
    return things, relation


def holds(relation, one, other):
    return {
        "left of": one[0] < other[0] - 2,
        "right of": one[0] > other[0] + 2,
        "above": one[1] < other[1] - 2,
        "below": one[1] > other[1] + 2,
    }[relation]


@pytest.mark.parametrize("seed", range(150))
def test_caption_true_and_negatives_false(seed):
    rng = random.Random(seed)
    scene = sample_scene(rng)
    claim = Claim(scene.first, scene.relation, scene.second)
    template = rng.choice(TEMPLATES)
    caption = caption_of(claim, template)
    negatives = hard_negatives(scene, claim, template, rng)
    seen = centres(png_bytes(scene, rng))
    (first, second), relation = read(caption)
    assert set(seen) == {first[0], second[0]}
    assert holds(relation, seen[first[0]], seen[second[0]])
    assert [negative.type for negative in negatives] == list(NEGATIVE_TYPES)
    true_pairs = {first, second}
    for negative in negatives:
        assert negative.text != caption
        if negative.type == "reshuffle_order":
            assert sorted(negative.text.split()) == sorted(caption.split())
            continue
        # The pairs of colour and shape in the picture are known from the (pixel-checked) caption.
        assert set(read(negative.text)[0]) != true_pairs
        if negative.type.startswith("swap"):
            assert sorted(negative.text.split()) == sorted(caption.split())
        else:
            changed = [a for a, b in zip(negative.text.split(), caption.split(), strict=True) if a != b]
            assert len(changed) == 1
