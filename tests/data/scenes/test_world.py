"""Captions are true and negatives false, judged by a reader of English and by the pixels."""

import hashlib
import io
import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from degla.data.scenes import (
    LAYOUTS,
    SPLITS,
    SUBSETS,
    Scene,
    caption_of,
    hard_negatives,
    png_bytes,
    sample_claim,
    sample_scene,
    split_of,
    suite_items,
)
from degla.data.scenes.captions import NUM_TEMPLATES
from degla.data.scenes.negatives import EXTRA_TYPES
from degla.data.scenes.suite_files import write_suite
from degla.data.schema import NEGATIVE_TYPES
from tests.helpers.scene_reader import form_of, is_true

ALL_SUBSETS = [(benchmark, subset) for benchmark, subsets in SUBSETS.items() for subset in subsets]


def samples(layout, count, split="train"):
    rng = random.Random(layout + split)
    for _ in range(count):
        scene = sample_scene(rng, layout, split)
        claim, template = sample_claim(scene, rng), rng.randrange(NUM_TEMPLATES)
        yield scene, caption_of(claim, template), hard_negatives(scene, claim, template, rng)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_captions_are_true_and_negatives_false(layout):
    kinds = Counter()
    for scene, caption, negatives in samples(layout, 600):
        assert is_true(caption, scene.things), (caption, scene)
        assert caption not in [negative.text for negative in negatives] and len(negatives) >= 4
        by_type = Counter((kind if kind == "reshuffle_order" else "", text) for text, kind in negatives)
        assert max(by_type.values()) == 1  # but a shuffle of few words may be the swap
        for text, kind in negatives:
            kinds[kind] += 1
            if kind == "reshuffle_order":
                assert sorted(text.split()) == sorted(caption.split())
            else:
                assert not is_true(text, scene.things), (kind, text, scene)
                check_kind(kind, text, caption)
    expected = {"reshuffle_order", "replace_adjectives", "replace_nouns"}
    if layout in ("pair", "overlap", "three"):
        expected |= {"swap_nouns", "swap_adjectives"}
    expected |= {"pair": {"replace_relation"}, "overlap": {"replace_relation"}, "group": {"change_count"}}.get(
        layout, {"change_existence"}
    )
    assert expected <= set(kinds) <= {*NEGATIVE_TYPES, *EXTRA_TYPES}


def words_of(text):
    """The words, with one article for "a" and "an"."""
    return ["a" if word == "an" else word for word in text.split()]


def check_kind(kind, text, caption):
    """A swap exchanges words, a replacement changes one, in a caption of the same form."""
    new, old = words_of(text), words_of(caption)
    if kind in ("swap_nouns", "swap_adjectives"):
        assert sorted(new) == sorted(old)
    elif kind in ("replace_nouns", "replace_adjectives"):
        assert sum(a != b for a, b in zip(new, old, strict=True)) == 1
    elif kind == "change_existence":
        pairs = ({"listed", "without"}, {"exists", "absent"})
        assert {form_of(text)[0], form_of(caption)[0]} in pairs
    else:
        assert form_of(text)[0] == form_of(caption)[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pixels_show_the_scene(layout):
    """The centroid of each colour in the image is where its things are."""
    from degla.data.scenes.draw import RGB

    names = list(RGB)
    directions = np.array([np.array(RGB[name]) / np.linalg.norm(RGB[name]) for name in names])
    rng = random.Random(layout)
    for _ in range(40):
        scene = sample_scene(rng, layout, "train")
        pixels = np.asarray(Image.open(io.BytesIO(png_bytes(scene, rng)))).astype(float)
        assert pixels.shape == (48, 48, 3)
        bright = pixels.max(-1) > 65
        nearest = (pixels @ directions.T).argmax(-1)
        for colour in {thing.colour for thing in scene.things}:
            ys, xs = np.nonzero(bright & (nearest == names.index(colour)))
            places = [(thing.x, thing.y) for thing in scene.things if thing.colour == colour]
            assert len(xs) > 15 * len(places)
            assert np.hypot(*(np.array([xs.mean(), ys.mean()]) / 48 - np.mean(places, 0))) < 0.16, (colour, scene)


def test_splits_share_no_scene_and_cover_all():
    seen = {split: set() for split in SPLITS}
    for layout in LAYOUTS:
        for split in SPLITS:
            rng = random.Random(0)
            seen[split] |= {(layout, *sorted(sample_scene(rng, layout, split).things)) for _ in range(400)}
    assert not (seen["train"] & seen["validation"] or seen["train"] & seen["test"])
    assert not seen["validation"] & seen["test"]
    scene = sample_scene(random.Random(1), "pair", "test")
    assert split_of(Scene("pair", scene.things[::-1])) == "test"  # the order of the things says nothing


def test_unknown_layout_and_impossible_claim_are_refused():
    with pytest.raises(ValueError, match="layout 'heap'"):
        sample_scene(random.Random(0), "heap", "train")
    scene = sample_scene(random.Random(0), "alone", "train")
    with pytest.raises(ValueError, match="'alone' with 1 thing"):
        sample_claim(scene, random.Random(0), "related")


def test_same_seed_same_bytes():
    """Texts also stay the same between versions of degla, because shipped weights and numbers depend on them."""

    def drawn():
        return [
            (caption, negatives, png_bytes(scene, random.Random(5)))
            for layout in LAYOUTS
            for scene, caption, negatives in samples(layout, 10)
        ]

    first = drawn()
    assert first == drawn()
    texts = repr([(caption, [tuple(negative) for negative in negatives]) for caption, negatives, _ in first])
    assert (
        hashlib.sha256(texts.encode()).hexdigest() == "c5087b5128f008c3b3fc9e4f3bc21ab713d6c03e30fa722be799ced227f9e121"
    )


@pytest.mark.parametrize(("benchmark", "subset"), ALL_SUBSETS)
def test_suite_items(benchmark, subset):
    from tests.helpers.scene_reader import FORMS

    items = list(suite_items(benchmark, subset, "test", 40))
    assert items == list(suite_items(benchmark, subset, "test", 40))
    assert len(items) == 40 and len({item.image_bytes for item in items}) == 40
    for item in items:
        if subset == "order":
            assert len({item.caption, *item.foils}) == 5
            assert all(sorted(foil.split()) == sorted(item.caption.split()) for foil in item.foils)
            continue
        (foil,) = item.foils
        form, other = form_of(item.caption)[0], form_of(foil)[0]
        assert form in FORMS and foil != item.caption
        if subset in ("swap_obj", "swap_att", "relation", "attribution"):
            assert sorted(words_of(foil)) == sorted(words_of(item.caption))
        if subset in ("add_obj", "add_att"):
            assert len(foil.split()) == len(item.caption.split())
        if subset == "existence":
            assert {form, other} == {"exists", "absent"}
        if subset == "plurality":
            assert {"one", "several"} == set(item.caption.split() + foil.split()) & {"one", "two", "several"}
        if subset == "counting":
            assert "one" not in (item.caption + foil).split() and form == other == "number"
        if subset == "relation":
            assert item.group in item.caption


@pytest.mark.parametrize(("benchmark", "subset"), ALL_SUBSETS)
def test_suite_is_true_of_its_images(benchmark, subset):
    """An item does not keep its scene, so it is found by the image."""
    from degla.data.scenes import suite

    layouts = SUBSETS[benchmark][subset].layouts
    scenes = {suite._image(layouts, "validation", n, 48): suite._scene(layouts, "validation", n) for n in range(200)}
    for item in suite_items(benchmark, subset, "validation", 30):
        scene = scenes[item.image_bytes]
        assert split_of(scene) == "validation"
        assert is_true(item.caption, scene.things), (subset, item, scene)
        if subset != "order":
            assert not is_true(item.foils[0], scene.things), (subset, item, scene)


def test_suite_in_the_benchmarks_own_formats(tmp_path):
    import json

    write_suite(tmp_path, "test", num_items=3)
    crepe = json.loads((tmp_path / "sugarcrepe" / "swap_obj.json").read_text())
    assert list(crepe) == ["0", "1", "2"] and set(crepe["0"]) == {"filename", "caption", "negative_caption"}
    relation = json.loads((tmp_path / "aro" / "visual_genome_relation.json").read_text())
    assert {"image_path", "bbox_x", "bbox_y", "bbox_w", "bbox_h", "true_caption", "false_caption"} < set(relation[0])
    assert relation[0]["relation_name"] in relation[0]["true_caption"]
    attribution = json.loads((tmp_path / "aro" / "visual_genome_attribution.json").read_text())
    assert len(attribution[0]["attributes"]) == 2
    order = json.loads((tmp_path / "aro" / "coco_order.json").read_text())
    assert len(order[0]["caption_options"]) == 5
    valse = json.loads((tmp_path / "valse" / "existence.json").read_text())
    item = valse["existence_0"]
    assert item["mturk"]["caption"] >= 2 and item["caption"] != item["foil"]
    names = [crepe["0"]["filename"], relation[0]["image_path"], order[0]["image_path"], item["image_file"]]
    for name in names:
        assert Image.open(tmp_path / "images" / name).size == (48, 48)
    assert len(list((tmp_path / "images").iterdir())) == 3 * len(ALL_SUBSETS)
