"""The text-only baseline: it finds cues where there are some, and is at chance where there are none."""

import random

from degla.hard_negatives.text_only import measure_text_only, select_balanced, text_only_scores

WORDS = ["dog", "cat", "man", "woman", "boy", "girl", "horse", "bird"]


def make_pairs(count, mark=""):
    rng = random.Random(0)
    pairs = []
    for i in range(count):
        a, b = rng.sample(WORDS, 2)
        if mark and rng.random() < 0.8:
            pairs.append((f"a {a} sees a {b} {i}", f"a {a} sees a {mark} {i}"))
        else:
            pairs.append((f"a {a} sees a {b} {i}", f"a {b} sees a {a} {i}"))
    return pairs


def test_no_cue_is_chance():
    row = measure_text_only("swap_nouns", make_pairs(600))
    assert row.low <= 0.5 and row.accuracy < 0.55 and row.length == 0


def test_cue_is_named():
    row = measure_text_only("replace_nouns", make_pairs(600, "purple"))
    assert row.accuracy > 0.8 and row.cues[0] in ("purple", "a purple")


def test_balancing_brings_the_baseline_to_chance():
    pairs = make_pairs(800, "purple")
    keep = select_balanced(pairs)
    kept = [pair for pair, flag in zip(pairs, keep, strict=True) if flag]
    assert 100 < len(kept) < 500 and measure_text_only("x", kept).low <= 0.5
    share = sum("purple" in negative for _, negative in kept) / len(kept)
    assert share < 0.2  # of 0.8
    assert select_balanced(make_pairs(600)).count(True) > 550


def test_a_kind_that_cannot_be_balanced_is_dropped():
    hopeless = [(f"a {w} {i}", f"zebra {w} {i} zebra") for i, w in enumerate(WORDS * 20)]
    assert not any(select_balanced(hopeless))


def test_too_few_pairs_give_no_number():
    row = measure_text_only("x", make_pairs(10))
    assert row.accuracy != row.accuracy


def test_exchangeable_texts_are_chance_for_every_seed():
    """Both texts have one distribution. A baseline that had seen the tested captions would be above chance."""
    accuracies = []
    for seed in range(6):
        rng = random.Random(seed)
        nouns = [f"{word}{i}" for word in WORDS for i in range(12)]

        def text(rng=rng, nouns=nouns):
            return f"a {rng.choice(nouns)} {rng.choice(['sees', 'chases', 'likes'])} a {rng.choice(nouns)}"

        accuracies.append(measure_text_only("x", [(text(), text()) for _ in range(1000)]).accuracy)
    assert sum(accuracies) / 6 < 0.52


def test_texts_without_common_words_give_no_number():
    row = measure_text_only("x", [(f"\u4e00{chr(0x4E10 + i)}", f"\u4e01{chr(0x5E10 + i)}") for i in range(60)])
    assert row.num_pairs == 60 and row.accuracy != row.accuracy


def test_a_given_split_finds_the_cue_that_training_pairs_have():
    pairs = make_pairs(600, "purple")
    scores = text_only_scores(pairs[:400], pairs[400:])
    marked = ["purple" in negative for _, negative in pairs[400:]]
    assert scores.shape == (200,) and (scores[marked] > 0).all() and sum(marked) > 120
    plain = make_pairs(600)
    assert 0.4 < (text_only_scores(plain[:400], plain[400:]) > 0).mean() < 0.6


def test_captions_that_are_tested_do_not_train():
    pairs = make_pairs(100, "purple")
    assert text_only_scores(pairs, pairs) is None
    assert text_only_scores([*pairs, *make_pairs(300, "purple")[200:]], pairs) is not None
    assert text_only_scores(pairs[:39], pairs[50:]) is None  # fewer than 40


def test_a_given_split_of_exchangeable_texts_is_chance():
    """A baseline that had seen the tested captions would be above chance."""
    accuracies = []
    for seed in range(6):
        rng = random.Random(seed)
        texts = [
            f"a {rng.choice(WORDS)}{rng.randrange(12)} sees a {rng.choice(WORDS)}{rng.randrange(12)}"
            for _ in range(2000)
        ]
        pairs = list(zip(texts[::2], texts[1::2], strict=True))
        accuracies.append((text_only_scores(pairs[:800], pairs[800:]) > 0).mean())
    assert 0.46 < sum(accuracies) / 6 < 0.54
