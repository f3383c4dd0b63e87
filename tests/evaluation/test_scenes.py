"""The benchmark on the built-in world, and what needs no picture in it."""

import pytest
import torch

from degla.data.scenes import GENERAL_TASKS, SUBSETS, general_examples, suite_items
from degla.evaluation import Encoder, ScenesBenchmark
from degla.evaluation.text_only import text_only_accuracy
from degla.models import load_clip

NEEDS_NO_PICTURE = {"add_obj", "add_att", "order"}  # longer, or no English


@pytest.fixture(scope="module")
def shipped():
    return load_clip("degla-scenes", "plain_clip")


@pytest.mark.parametrize(
    ("benchmark", "subset"), [(benchmark, subset) for benchmark, subsets in SUBSETS.items() for subset in subsets]
)
def test_texts_alone_are_at_chance_where_they_should_be(benchmark, subset):
    train, test = (
        [(item.caption, item.foils) for item in suite_items(benchmark, subset, split, count)]
        for split, count in (("train", 600), ("test", 500))
    )
    accuracy = text_only_accuracy(train, test)
    if subset in NEEDS_NO_PICTURE:
        assert accuracy > (0.4 if subset == "order" else 0.9)  # chance: 0.2, 0.5
    else:
        assert abs(accuracy - 0.5) < 0.08  # three and a half standard errors


def test_the_shipped_model_knows_things_and_not_their_order(shipped):
    """What docs/scenes.md says of it, on the validation split."""
    benchmark = ScenesBenchmark("validation", num_items=100)
    scores = benchmark.evaluate(Encoder(shipped))
    means = benchmark.summary(scores)
    assert means["general"] > 0.95
    for name in ("sugarcrepe/swap_obj", "sugarcrepe/swap_att", "aro/relation", "aro/attribution", "valse/spatial"):
        assert scores[name].accuracy < 0.72, name
    assert scores["aro/order"].accuracy < 0.35
    assert means["overall"] == (means["compositional"] + means["general"]) / 2
    assert all(score.num_items == 100 for score in scores.values())


def test_a_model_that_sees_nothing_scores_nothing(shipped, monkeypatch):
    constant = torch.nn.functional.normalize(torch.ones(1, 128), dim=-1)
    monkeypatch.setattr(shipped, "encode_text", lambda tokens: constant.expand(len(tokens), 128), raising=False)
    scores = ScenesBenchmark("test", num_items=6).evaluate(Encoder(shipped))
    assert {score.accuracy for score in scores.values()} == {0.0}


def test_encoder_does_not_depend_on_batches_and_leaves_the_mode(shipped):
    texts = ["a red circle", "no red circle", "there is a red circle left of a small blue star", "a red circle"]
    files = [item.image_bytes for item in suite_items("valse", "counting", "test", 5)]
    shipped.train()
    one, many = Encoder(shipped, batch_size=1), Encoder(shipped, batch_size=64)
    torch.testing.assert_close(one.texts(texts), many.texts(texts), rtol=0, atol=1e-5)
    torch.testing.assert_close(one.images(files), many.images(files), rtol=0, atol=1e-5)
    assert torch.equal(many.texts(texts)[0], many.texts(texts)[3]) and shipped.training
    assert not many.texts(texts).requires_grad
    shipped.eval()


@pytest.mark.parametrize("name", GENERAL_TASKS)
def test_general_pictures(name):
    examples = list(general_examples(name, "test", 40))
    assert examples == list(general_examples(name, "test", 40))
    assert {label for _, label in examples} == set(range(len(GENERAL_TASKS[name].classes)))
    assert not {file for file, _ in examples} & {file for file, _ in general_examples(name, "validation", 40)}
    assert len(GENERAL_TASKS[name].templates) == 4


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r"benchmark\.split=train must be one of validation, test"):
        ScenesBenchmark("train")
