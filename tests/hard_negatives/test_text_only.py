"""The blind model finds what gives negatives away, and nothing where nothing does."""

import random

from degla.hard_negatives.text_only import balanced, blind_row

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


def test_exchangeable_texts_are_chance_however_often_it_is_tried():
    """Both texts drawn alike: a model that had seen the judged captions in any way would be ahead."""
    accuracies = []
    for seed in range(6):
        rng = random.Random(seed)
        nouns = [f"{word}{i}" for word in WORDS for i in range(12)]

        def text(rng=rng, nouns=nouns):
            return f"a {rng.choice(nouns)} {rng.choice(['sees', 'chases', 'likes'])} a {rng.choice(nouns)}"

        accuracies.append(blind_row("x", [(text(), text()) for _ in range(1000)]).accuracy)
    assert sum(accuracies) / 6 < 0.52


def test_a_script_without_common_words_says_nothing():
    row = blind_row("x", [(f"\u4e00{chr(0x4E10 + i)}", f"\u4e01{chr(0x5E10 + i)}") for i in range(60)])
    assert row.num_pairs == 60 and row.accuracy != row.accuracy
