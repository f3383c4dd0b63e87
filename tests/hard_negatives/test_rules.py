"""Rules and checks on captions whose right answers a reader can see."""

import pytest

from degla.hard_negatives.checks import rejection
from degla.hard_negatives.kinds import KINDS
from degla.hard_negatives.language.lexicon import lexicon
from degla.hard_negatives.language.tagger import tagger
from degla.hard_negatives.language.words import finished, indefinite, join, plural, singular, split, words
from degla.hard_negatives.rules import Rules, Unable

HANTA = tagger("hanta")


def all_of(caption, kind, count=50, seed=0):
    return set(Rules(seed=seed).write(caption, kind, count))


def test_splitting_keeps_the_text():
    for text in ("A dog's ball, red-hot; two!", " a  dog . ", "It's 3 o'clock (late)"):
        assert join(split(text)) == text.strip()
    assert words("An apple, a day.") == ["a", "apple", "a", "day"]


def test_articles_and_capitals_are_put_right():
    assert finished("A old dog", split("A umbrella dog")) == "An umbrella dog"
    assert finished("A man eats an apple", split("an apple eats A man")) == "An apple eats a man"
    assert finished("a man", split("a hour")) == "an hour" and indefinite("uniform") == "a"
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
def test_by_hand(kind, caption, expected):
    found = all_of(caption, kind)
    assert found and found <= expected, found
    for text in found:
        assert rejection(caption, text, kind, HANTA) == ""


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
def test_nothing_is_made_where_nothing_can_be(kind, caption):
    with pytest.raises(Unable):
        Rules().write(caption, kind, 1)


def test_replacements_are_of_another_meaning_and_not_in_the_caption():
    for text in all_of("A man and a woman ride a red bike", "replace_nouns"):
        assert "guy" not in text and "bicycle" not in text and words(text).count("woman") < 2
    for text in all_of("A red and a blue car", "replace_adjectives"):
        assert len({"red", "blue"} & set(words(text))) == 1
    known = lexicon()
    for table in (known.nouns, known.adjectives):
        for word, rivals in table.items():
            assert word not in rivals and not set(rivals) & known.synonyms.get(word, set()), (word, rivals)


def test_the_same_seed_gives_the_same_and_another_another():
    caption = "A man in a red hat and a woman in a blue coat walk two dogs on a large beach"
    for kind in KINDS:
        assert Rules(seed=3).write(caption, kind, 2) == Rules(seed=3).write(caption, kind, 2)
    assert len({Rules(seed=seed).write(caption, "reshuffle_order", 1)[0] for seed in range(5)}) > 1


def test_the_lexicon_alone_needs_no_tagger():
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
        ("A black puppy chases a white cat", "replace_nouns", "paraphrase: a word for the same"),
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
    found = rejection(CAPTION, text, kind, HANTA)
    assert found.startswith(reason) and bool(found) == bool(reason)


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
        ("A man in a car", "A man in a truck", "replace_relation", "wrong kind: no relation"),
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
def test_the_same_in_other_words_or_more_than_was_asked_for(caption, text, kind, reason):
    found = rejection(caption, text, kind, HANTA)
    assert found.startswith(reason) and bool(found) == bool(reason)


def test_what_cannot_be_counted_gets_no_article_and_no_plural():
    for caption in ("A man walks on a beach", "Two men walk on beaches"):
        assert not {"snow", "snows"} & {w for text in all_of(caption, "replace_nouns") for w in words(text)}
    assert any("snow" in words(text) for text in all_of("A man walks on the beach", "replace_nouns"))
    assert all_of("A boy plays tennis", "replace_nouns") >= {"A boy plays soccer"}
    for caption, first, last in (("A man eats hot dogs", "hot", "dogs"), ("A traffic light", "traffic", "light")):
        for text in all_of(caption, "replace_nouns"):
            assert (first in words(text)) == (last in words(text)), text
    assert [singular(word) for word in ("bus", "buses", "tennis", "cactus", "dogs", "skis")] == [
        "bus", "bus", "tennis", "cactus", "dog", "ski"
    ]  # fmt: skip


def test_repetitions_are_rejected():
    text = "A black cat chases a white dog"
    assert rejection(CAPTION, text, "swap_nouns", HANTA, [text + " ."]) == "duplicate"
