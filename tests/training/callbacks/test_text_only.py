"""The text-only baseline of a run: what it is trained and tested on, and what it counts."""

import random

import pytest

from degla.data.schema import Negative, Sample
from degla.report.text_only import TextOnlyRecord, TextOnlyScore, read_text_only, write_text_only
from degla.training.callbacks.text_only import caption_choice, retrieval

WORDS = ["dog", "cat", "man", "woman", "boy", "girl", "horse", "bird"]


def samples(first: int, count: int, types: dict[str, str]) -> list[Sample]:
    """Captions with one negative of each type, which ends in the type's own mark."""
    made = []
    for i in range(first, first + count):
        a, b = random.Random(i).sample(WORDS, 2)
        negatives = [Negative(f"a {b} sees a {a} {i} {mark}".strip(), name) for name, mark in types.items()]
        made.append(Sample(str(i), None, f"{i}.jpg", f"a {a} sees a {b} {i}", negatives))
    return made


def test_each_type_has_a_classifier_of_its_own():
    types = {"replace": "purple", "swap": ""}
    scores = caption_choice(samples(0, 300, types), samples(300, 200, types))
    assert list(scores) == ["caption_choice", "caption_choice/replace", "caption_choice/swap"]
    assert scores["caption_choice/replace"] == TextOnlyScore(accuracy=1.0, count=200)
    swap = scores["caption_choice/swap"].accuracy
    assert swap is not None and 0.4 < swap < 0.6
    # Both choices must be correct; the first always is.
    assert scores["caption_choice"] == TextOnlyScore(accuracy=swap, count=200)


def test_a_type_that_training_lacks_is_guessed():
    scores = caption_choice(
        samples(0, 300, {"replace": "purple"}), samples(300, 100, {"replace": "purple", "swap": ""})
    )
    assert scores["caption_choice/swap"] == TextOnlyScore(accuracy=None, count=100)
    assert scores["caption_choice"].accuracy == pytest.approx(0.5)
    assert scores["caption_choice/replace"].accuracy == 1.0


def test_unusable_samples_and_negatives_do_not_count():
    bad = Sample("x", None, "x.jpg", "a dog", [Negative("a cat", "swap")], problem="truncated")
    same = Sample("y", None, "y.jpg", "a dog", [Negative("A  dog", "swap"), Negative("", "swap")])
    train, val = samples(0, 100, {"swap": ""}), samples(100, 50, {"swap": ""})
    assert caption_choice(train, [*val, bad, same]) == caption_choice(train, val)
    assert caption_choice(train, []) == {} == caption_choice([], [])


def test_retrieval_finds_k_of_n():
    scores = retrieval(200)
    assert scores["image_to_text_r@1"] == TextOnlyScore(accuracy=0.005, count=200)
    assert scores["text_to_image_r@10"].accuracy == 0.05 and len(scores) == 6
    assert retrieval(4)["image_to_text_r@5"].accuracy == 1


def test_the_record_is_read_as_it_was_written(tmp_path):
    assert read_text_only(tmp_path) is None
    record = TextOnlyRecord(
        scores={"a": TextOnlyScore(accuracy=0.25, count=8), "b": TextOnlyScore(accuracy=None, count=1)}
    )
    write_text_only(tmp_path, record)
    assert read_text_only(tmp_path) == record
    assert [record.cell(name) for name in "abc"] == ["25.0", "", ""]
    (tmp_path / "text_only.json").write_text("{}")
    assert read_text_only(tmp_path) is None
