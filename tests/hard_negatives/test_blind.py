"""The blind model finds what gives negatives away, and nothing where nothing does."""

import random

from degla.hard_negatives.blind import balanced, blind_row

WORDS = ["dog", "cat", "man", "woman", "boy", "girl", "horse", "bird"]


def pairs(count, mark=""):
    rng = random.Random(0)
    found = []
    for i in range(count):
        a, b = rng.sample(WORDS, 2)
        if mark and rng.random() < 0.8:
            found.append((f"a {a} sees a {b} {i}", f"a {a} sees a {mark} {i}"))
        else:
            found.append((f"a {a} sees a {b} {i}", f"a {b} sees a {a} {i}"))
    return found


def test_nothing_to_find_is_chance():
    row = blind_row("swap_nouns", pairs(600))
    assert row.low <= 0.5 and row.accuracy < 0.55 and row.length == 0


def test_a_word_that_gives_it_away_is_named():
    row = blind_row("replace_nouns", pairs(600, "purple"))
    assert row.accuracy > 0.8 and row.cues[0] in ("purple", "a purple")


def test_balance_drops_until_the_model_is_at_chance():
    some = pairs(800, "purple")
    keep = balanced(some)
    kept = [pair for pair, flag in zip(some, keep, strict=True) if flag]
    assert 100 < len(kept) < 500 and blind_row("x", kept).low <= 0.5
    share = sum("purple" in negative for _, negative in kept) / len(kept)
    assert share < 0.2  # of 0.8
    assert balanced(pairs(600)).count(True) > 550


def test_what_cannot_be_balanced_goes():
    hopeless = [(f"a {w} {i}", f"zebra {w} {i} zebra") for i, w in enumerate(WORDS * 20)]
    assert not any(balanced(hopeless))


def test_too_few_pairs_say_nothing():
    row = blind_row("x", pairs(10))
    assert row.accuracy != row.accuracy
