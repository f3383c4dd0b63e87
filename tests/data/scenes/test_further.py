"""Further columns of scenes: what they say is checked against the scenes themselves."""

import random

from degla.data.requirements import refuse_missing_columns
from degla.data.scenes import LAYOUTS, caption_of, holds, sample_claim, sample_scene, split_of
from degla.data.scenes.claims import Claim, Noun
from degla.data.scenes.further import negative_scene, paraphrases_of, second_caption, units_of
from degla.data.scenes.negatives import false_claims
from degla.data.sources import scenes


def drawn(count):
    for number in range(count):
        rng = random.Random(number)
        scene = sample_scene(rng, LAYOUTS[number % len(LAYOUTS)], "train")
        yield scene, sample_claim(scene, rng, detail=0.3), number % 3, rng


def noun_of(text):
    """The phrase of a unit, such as ``a large striped red star``."""
    words = text.split()[1:]
    slots = {"small": "size", "large": "size", "plain": "texture"}
    slots |= dict.fromkeys(("striped", "dotted", "chequered"), "texture")
    fields = {slots.get(word, "colour"): word for word in words[:-1]}
    return Noun(words[-1], **fields)


def test_units_are_true_and_their_foils_false():
    found = 0
    for scene, claim, _, rng in drawn(500):
        for text, foil in units_of(scene, claim, rng):
            found += 1
            assert holds(Claim("exists", (noun_of(text),)), scene) and not holds(
                Claim("exists", (noun_of(foil),)), scene
            )
            assert len(set(text.split()[1:]) ^ set(foil.split()[1:])) == 2  # one word differs, and perhaps "a" or "an"
    assert found > 400


def test_a_negative_scene_shows_the_negative_and_not_the_caption():
    kinds = set()
    missing = 0
    for scene, claim, template, rng in drawn(500):
        other = negative_scene(scene, claim, template, rng)
        if other is None:
            missing += 1
            continue
        kinds.add(other.negative.type)
        assert not holds(claim, other.scene) and split_of(other.scene) == "train" and other.scene != scene
        claims = false_claims(scene, claim)[other.negative.type]
        assert any(holds(false, other.scene) and caption_of(false, template) == other.negative.text for false in claims)
    assert missing < 100 and kinds >= {"swap_nouns", "swap_adjectives", "replace_adjectives", "replace_nouns"}


def test_paraphrases_and_second_captions_are_other_texts():
    for scene, claim, template, rng in drawn(200):
        caption = caption_of(claim, template)
        others = paraphrases_of(claim, template)
        assert len({caption, *others}) == 3 and second_caption(scene, caption, 0.3, rng) != caption


def test_the_source_adds_them_and_keeps_the_scenes(tmp_path):
    plain, rich = (scenes(60, further_columns=further, cache_dir=str(tmp_path)) for further in (False, True))
    assert "units" not in plain.dataset.column_names
    refuse_missing_columns(rich, ("units", "paraphrases", "second_captions", "negative_images"))
    for one, other in zip(plain.samples(range(60)), rich.samples(range(60)), strict=True):
        assert (one.id, one.caption, one.image_bytes) == (other.id, other.caption, other.image_bytes)
        assert len(other.captions) == 2 and len(other.paraphrases) == 2
        assert {n.text for n in one.negatives} <= {n.text for n in other.negatives}
        assert not other.negative_images or other.negative_images[0].image_bytes[:4] == b"\x89PNG"
    assert sum(bool(sample.negative_images) for sample in rich.samples(range(60))) > 45
