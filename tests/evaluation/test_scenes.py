"""The benchmark on the built-in world, and the sub-tasks in it that need no image."""

import pytest
import torch

from degla.data.scenes import GENERAL_TASKS, SUBSETS, general_examples, suite_items
from degla.errors import ConfigError
from degla.evaluation import Encoder, FeatureStore, point_estimates, run_benchmarks
from degla.evaluation.tasks.scenes import Scenes
from degla.models import load_clip
from tests.helpers.text_only import text_only_accuracy

NEEDS_NO_IMAGE = {"order"}  # the wrong captions are not English


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
    if subset in NEEDS_NO_IMAGE:
        assert accuracy > 0.4  # chance: 0.2
    else:
        assert abs(accuracy - 0.5) < 0.08  # three and a half standard errors


def test_the_shipped_model_knows_things_and_not_their_order(shipped):
    """What docs/scenes.md says of it, on the validation split."""
    task = Scenes("validation", num_items=100)
    found = run_benchmarks({"scenes": task}, FeatureStore(Encoder(shipped), progress=False))["scenes"].outcomes
    scores, means = point_estimates(task, found)
    assert means["general"] > 0.95
    for name in ("sugarcrepe/swap_obj", "sugarcrepe/swap_att", "aro/attribution"):
        assert scores[name] < 0.85, name
    for name in ("aro/relation", "valse/spatial"):
        assert scores[name] < 0.65, name
    assert scores["aro/order"] < 0.35
    assert means["average"] == pytest.approx((means["compositional"] + means["general"]) / 2)
    assert len(found) == 1900 and set(scores) == set(task.subsets)


def test_a_model_that_sees_nothing_scores_nothing(shipped, monkeypatch):
    constant = torch.nn.functional.normalize(torch.ones(1, 128), dim=-1)
    monkeypatch.setattr(shipped, "encode_text", lambda tokens: constant.expand(len(tokens), 128), raising=False)
    task = Scenes("test", num_items=6)
    found = run_benchmarks({"scenes": task}, FeatureStore(Encoder(shipped), progress=False))["scenes"].outcomes
    assert len(found) == 6 * 19 and not any(outcome.correct for outcome in found)
    assert all(outcome.tie for outcome in found)


@pytest.mark.parametrize("name", GENERAL_TASKS)
def test_general_images(name):
    examples = list(general_examples(name, "test", 40))
    assert examples == list(general_examples(name, "test", 40))
    assert {label for _, label in examples} == set(range(len(GENERAL_TASKS[name].classes)))
    assert not {file for file, _ in examples} & {file for file, _ in general_examples(name, "validation", 40)}
    assert len(GENERAL_TASKS[name].templates) == 4


def test_unknown_split_is_refused():
    with pytest.raises(ConfigError, match="split=train must be one of validation, test"):
        Scenes("train")
