"""Rules and checks on short captions, for which a reader can tell the correct result."""

import pytest

from degla.hard_negatives.checks import rejection_reason
from degla.hard_negatives.kinds import KINDS
from degla.hard_negatives.language.lexicon import lexicon
from degla.hard_negatives.language.tagger import load_tagger
from degla.hard_negatives.language.words import (
    detokenize,
    finish_caption,
    indefinite_article,
    lower_words,
    plural,
    singular,
    tokenize,
)
from degla.hard_negatives.rules import NoNegative, Rules

HANTA = load_tagger("hanta")


def all_negatives(caption, kind, count=50, seed=0):
    return set(Rules(seed=seed).write(caption, kind, count))


def test_splitting_keeps_the_text():
    for text in ("A dog's ball, red-hot; two!", " a  dog . ", "It's 3 o'clock (late)"):
        assert detokenize(tokenize(text)) == text.strip()
    assert lower_words("An apple, a day.") == ["a", "apple", "a", "day"]


def test_articles_and_capitals_are_corrected():
    assert finish_caption("A old dog", tokenize("A umbrella dog")) == "An umbrella dog"
    assert finish_caption("A man eats an apple", tokenize("an apple eats A man")) == "An apple eats a man"
    assert finish_caption("a man", tokenize("a hour")) == "an hour" and indefinite_article("uniform") == "a"
    assert plural("knife") == "knives" and singular("buses") == "bus" and singular("children") == "child"


@pytest.mark.parametrize(
    ("kind", "caption", "expected"),
    [
        ("swap_nouns", "A horse eats grass .", {"Grass eats a horse ."}),
        ("swap_nouns", "An old man feeds a dog", {"An old dog feeds a man"}),
        ("swap_nouns", "Two dogs chase a cat", {"Two cats chase a dog"}),
        ("swap_adjectives", "A black dog runs after a white cat", {"A white dog runs after a black cat"}),
        ("swap_adjectives", "An old man reads a large book", {"A large man reads an old book"}),
        ("change_count", "Two dogs on a bed", {"Three dogs on a bed", "Four dogs on a bed"}),
        ("replace_relation", "A cat is under the table", {"A cat is over the table", "A cat is on top of the table"}),
    ],
)
def test_negatives_of_short_captions(kind, caption, expected):
    negatives = all_negatives(caption, kind)
    assert negatives and negatives <= expected, negatives
    for text in negatives:
        assert rejection_reason(caption, text, kind, HANTA) == ""


@pytest.mark.parametrize(
    ("kind", "caption"),
    [
        ("swap_nouns", "A dog and a cat"),  # says the same
        ("swap_nouns", "A dog next to a cat"),
        ("swap_nouns", "A toothbrush that is sitting next to a toy"),
        ("swap_nouns", "A man with a woman"),
        ("swap_adjectives", "A small black dog"),
        ("swap_adjectives", "A red ball and a blue ball"),
        ("replace_adjectives", "A dog runs"),
        ("change_count", "A dog runs"),
    ],
)
def test_no_negative_where_none_is_possible(kind, caption):
    with pytest.raises(NoNegative):
        Rules().write(caption, kind, 1)


def test_replacements_are_of_another_meaning_and_not_in_the_caption():
    for text in all_negatives("A man and a woman ride a red bike", "replace_nouns"):
        assert "guy" not in text and "bicycle" not in text and lower_words(text).count("woman") < 2
    for text in all_negatives("A red and a blue car", "replace_adjectives"):
        assert len({"red", "blue"} & set(lower_words(text))) == 1
    for table in (lexicon().nouns, lexicon().adjectives):
        for word, rivals in table.items():
            assert word not in rivals and not set(rivals) & lexicon().synonyms.get(word, set()), (word, rivals)


TRUE_NEGATIVES = [  # a word, and a word that a viewer could use for the same thing
    ("ball", "toy"), ("rope", "toy"), ("toy", "ball"), ("pants", "jeans"), ("jeans", "pants"), ("trousers", "jeans"),
    ("boots", "shoes"), ("taxi", "car"), ("canoe", "boat"), ("backpack", "bag"), ("helmet", "hat"), ("jacket", "suit"),
    ("shirt", "uniform"), ("skateboarder", "skater"), ("church", "building"), ("dog", "animal"), ("poster", "sign"),
    ("mountain", "snow"), ("lake", "river"), ("mother", "grandmother"), ("bush", "tree"), ("chair", "bench"),
    ("plate", "tray"), ("sandwich", "bread"), ("hot dog", "sandwich"), ("kitchen", "dining room"),
]  # fmt: skip


@pytest.mark.parametrize(("word", "other"), TRUE_NEGATIVES)
def test_no_replacement_by_a_word_that_is_also_true(word, other):
    lemmas = " ".join([*word.split()[:-1], singular(word.split()[-1])]), singular(other)
    for first, second in (lemmas, lemmas[::-1]):
        assert second not in lexicon().nouns.get(first, ())
    for text in all_negatives(f"A man looks at the {word}", "replace_nouns"):
        assert f" {other} " not in f" {text} "


def test_tennis_balls_are_toys():
    """The captions of issue 13."""
    for caption in ("A dog plays with a tennis ball", "A dog pulls a rope", "A man in blue pants"):
        negatives = all_negatives(caption, "replace_nouns")
        assert negatives and not {"toy", "jeans"} & {word for text in negatives for word in lower_words(text)}


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("A dog with a ball", "A dog with a toy"),
        ("A dog on the grass", "An animal on the grass"),
        ("A man in pants", "A man in jeans"),
        ("A girl in a church", "A girl in a building"),
    ],
)
def test_general_word_for_a_specific_one_is_a_paraphrase(caption, text):
    assert rejection_reason(caption, text, "replace_nouns", HANTA) == "paraphrase: a synonym"
    assert rejection_reason(text, caption, "replace_nouns", HANTA) == "paraphrase: a synonym"


def test_seed_decides_the_negatives():
    caption = "A man in a red hat and a woman in a blue coat walk two dogs on a large beach"
    for kind in KINDS:
        assert Rules(seed=3).write(caption, kind, 2) == Rules(seed=3).write(caption, kind, 2)
    assert len({Rules(seed=seed).write(caption, "reshuffle_order", 1)[0] for seed in range(5)}) > 1


def test_lexicon_tagger():
    rules = Rules("lexicon")
    assert rules.write("A black dog runs after a white cat", "swap_adjectives", 1)
    assert rules.write("A black dog runs after two white cats", "swap_nouns", 1) == [
        "A black cat runs after two white dogs"
    ]


CAPTION = "A black dog chases a white cat"


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("", "swap_nouns", "empty"),
        ("A black dog chases a white cat.", "swap_nouns", "equal to the caption"),
        ("Sure! Here is one: a cat", "swap_nouns", "refusal or chatter"),
        ("I'm sorry, I cannot do that", "swap_nouns", "refusal or chatter"),
        ("A cat", "replace_nouns", "length"),
        ("A black cat chases a white dog . \n", "swap_nouns", ""),
        ("A black cat\nchases a white dog", "swap_nouns", "refusal or chatter"),
        ("A black dog chases a white cat in the garden of an old house by the sea", "replace_nouns", "length"),
        ("A black dog chases a white bird", "swap_nouns", "wrong kind: not the same words"),
        ("A white dog chases a black cat", "swap_nouns", "wrong kind: no noun moved"),
        ("A black cat chases a white dog", "swap_adjectives", "wrong kind: no adjective moved"),
        ("A black cat chases a white dog", "replace_nouns", "wrong kind: moved, not replaced"),
        ("A black puppy chases a white cat", "replace_nouns", "paraphrase: a synonym"),
        ("A black dog follows a white cat", "replace_nouns", "wrong kind: no noun replaced"),
        ("A black dog chases a white bird", "replace_adjectives", "wrong kind: no adjective replaced"),
        ("A red dog chases a white bird", "change_count", "wrong kind"),
        ("A black cat chases a white dog", "swap_nouns", ""),
        ("A white dog chases a black cat", "swap_adjectives", ""),
        ("A black dog chases a white bird", "replace_nouns", ""),
        ("A brown dog chases a white cat", "replace_adjectives", ""),
        ("chases a white dog a black cat", "reshuffle_order", ""),
        ("anything that is not the caption", "unknown", ""),
    ],
)
def test_rejections(text, kind, reason):
    rejection = rejection_reason(CAPTION, text, kind, HANTA)
    assert rejection.startswith(reason) and bool(rejection) == bool(reason)


PARAPHRASE = "paraphrase"


@pytest.mark.parametrize(
    ("caption", "text", "kind", "reason"),
    [
        ("A man on a couch", "A man on the sofa", "replace_nouns", PARAPHRASE),
        ("A dog runs", "The dog runs", "swap_nouns", PARAPHRASE),
        ("A dog runs", "One dog runs", "replace_nouns", PARAPHRASE),
        ("A man wears jeans", "A man wears a pair of jeans", "replace_nouns", PARAPHRASE),
        ("A dog runs on the grass", "A dog runs on wet concrete road", "replace_nouns", "wrong kind: more than one"),
        ("A red ball in a box", "A blue car in a box", "replace_nouns", "wrong kind: more than a noun"),
        ("A man eats a hot dog", "A man eats a sandwich", "replace_nouns", ""),
        ("A dog chases another dog", "A cat chases another cat", "replace_nouns", ""),
        ("A big brown dog", "A large brown dog", "replace_adjectives", PARAPHRASE),
        ("A woman in a red dress", "A lady in a blue dress", "replace_adjectives", ""),
        ("A man next to a car", "A man beside a car", "replace_relation", PARAPHRASE),
        ("A kite flies over trees", "A kite flies above trees", "replace_relation", PARAPHRASE),
        ("A man in a car", "A man in a truck", "replace_relation", "wrong kind: no relation replaced"),
        ("A man in front of a car", "A man behind a car", "replace_relation", ""),
        ("A man behind a car", "A man in front of a car", "replace_relation", ""),
        ("A car in the background", "A car in the foreground", "replace_relation", ""),
        ("Two dogs run", "2 dogs run", "change_count", PARAPHRASE),
        ("Two dogs run", "A pair of dogs run", "change_count", PARAPHRASE),
        ("Two dogs run", "A dog runs", "change_count", ""),
        ("Three dogs run", "The dogs run", "change_count", "wrong kind: no number"),
        ("Three dogs run", "Four cats run", "change_count", "wrong kind: more than the number"),
        ("A dog and a cat", "A cat and a dog", "reshuffle_order", PARAPHRASE),
        ("A dog chases a cat", "A cat chases a dog", "reshuffle_order", ""),
        ("A big red ball on grass", "A red big ball on grass", "swap_adjectives", PARAPHRASE),
        ("A black and white dog", "A white and black dog", "swap_adjectives", PARAPHRASE),
        ("A black and white dog with a red ball", "A red and white dog with a black ball", "swap_adjectives", ""),
        ("A small dog chases a white cat", "A white cat chases a small dog", "swap_adjectives", PARAPHRASE),
        ("A small dog next to a white cat", "A white cat next to a small dog", "swap_nouns", PARAPHRASE),
        ("A small dog next to a white cat", "A small cat next to a white dog", "swap_nouns", ""),
    ],
)
def test_paraphrases_and_wrong_changes_are_rejected(caption, text, kind, reason):
    rejection = rejection_reason(caption, text, kind, HANTA)
    assert rejection.startswith(reason) and bool(rejection) == bool(reason)


def test_mass_nouns_get_no_article_and_no_plural():
    for caption in ("A man walks on a beach", "Two men walk on beaches"):
        assert not {"snow", "snows"} & {
            w for text in all_negatives(caption, "replace_nouns") for w in lower_words(text)
        }
    assert any("snow" in lower_words(text) for text in all_negatives("A man walks on the beach", "replace_nouns"))
    assert all_negatives("A boy plays tennis", "replace_nouns") >= {"A boy plays soccer"}
    for caption, first, last in (("A man eats hot dogs", "hot", "dogs"), ("A traffic light", "traffic", "light")):
        for text in all_negatives(caption, "replace_nouns"):
            assert (first in lower_words(text)) == (last in lower_words(text)), text
    assert [singular(word) for word in ("bus", "buses", "tennis", "cactus", "dogs", "skis")] == [
        "bus", "bus", "tennis", "cactus", "dog", "ski"
    ]  # fmt: skip


def test_repetitions_are_rejected():
    text = "A black cat chases a white dog"
    assert rejection_reason(CAPTION, text, "swap_nouns", HANTA, [text + " ."]) == "duplicate"
