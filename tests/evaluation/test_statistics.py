"""Averages, intervals and comparisons against slow loops and textbook values."""

import random
from math import comb

import numpy as np
import pytest

from degla.evaluation.items import Outcome
from degla.evaluation.statistics import count_outcomes, differences, point_estimates, score_table
from degla.evaluation.task import Task, mean


class Plain(Task):
    def __init__(self):
        super().__init__("plain", official_counts={"a": None, "b": None}, macro_averaged=["b"])

    def list_images(self):
        return []

    def list_texts(self):
        return []

    def outcomes(self, features):
        return []

    def survey_part(self, part):
        return 0, []


def outcome(subset, item, right, group="", image=None, tie=False):
    return Outcome(subset, str(item), right, tie, 0.1, 0.5, image or f"{item}.jpg", group=group)


def answers(seed, share, count=400, images=80):
    rng = random.Random(seed)
    return [
        outcome(subset, i, rng.random() < share, rng.choice(["x", "y", "z", ""]), f"{i % images}.jpg")
        for subset in "ab"
        for i in range(count)
    ]


def test_micro_macro_and_means_against_loops():
    found = answers(0, 0.7)
    subsets, means = point_estimates(Plain(), found)
    for subset in "ab":
        own = [o for o in found if o.subset == subset]
        micro = sum(o.correct for o in own) / len(own)
        groups = {o.group for o in own if o.group}
        macro = sum(sum(o.correct for o in own if o.group == g) / sum(o.group == g for o in own) for g in groups) / len(
            groups
        )
        scored = score_table(Plain(), found)["subsets"][subset]
        assert scored["micro"] == pytest.approx(micro, abs=1e-6)
        assert scored["macro"] == pytest.approx(macro, abs=1e-6)
        assert scored["accuracy"] == pytest.approx(macro if subset == "b" else micro, abs=1e-6)
        assert subsets[subset] == pytest.approx(scored["accuracy"], abs=1e-6)
        assert scored["num_items"] == 400 and scored["chance"] == 0.5 and scored["ties"] == 0
    assert means["average"] == pytest.approx((subsets["a"] + subsets["b"]) / 2)


def test_interval_is_binomial_where_every_item_has_its_own_image():
    found = [outcome("a", i, i % 10 < 8) for i in range(1000)] + [outcome("b", 0, True)]
    low, high = score_table(Plain(), found)["subsets"]["a"]["interval"]
    half = 1.96 * (0.8 * 0.2 / 1000) ** 0.5
    assert low == pytest.approx(0.8 - half, abs=0.006) and high == pytest.approx(0.8 + half, abs=0.006)


def test_items_of_one_image_are_not_independent():
    """Fifty images whose items are all correct or all wrong are as uncertain as fifty items, not a thousand."""
    found = [outcome("a", i, i % 50 < 40, image=f"{i % 50}.jpg") for i in range(1000)] + [outcome("b", 0, True)]
    low, high = score_table(Plain(), found)["subsets"]["a"]["interval"]
    assert high - low == pytest.approx(2 * 1.96 * (0.8 * 0.2 / 50) ** 0.5, rel=0.15)


def test_no_mean_where_a_subset_has_no_answer():
    assert score_table(Plain(), [outcome("a", 0, True)])["means"] == {}
    assert score_table(Plain(), [])["subsets"] == {}


def test_difference_by_hand():
    first = [outcome("a", i, i < 10) for i in range(30)]
    second = [outcome("a", i, i < 4 or 10 <= i < 27) for i in range(30)] + [outcome("a", 99, True)]
    (row,) = differences(first, second)
    assert (row.num_items, row.gained, row.lost) == (30, 17, 6)
    tail = sum(comb(23, k) for k in range(7)) / 2**23
    assert row.p_value == pytest.approx(2 * tail) == row.adjusted
    assert row.change == pytest.approx(11 / 30) and row.low < row.change < row.high
    (same,) = differences(first, first)
    assert (same.change, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_a_change_of_a_mean_over_groups_is_judged_as_such():
    """Many items of one group gain, nine small groups lose: the headline falls, and no star may show a gain."""
    groups = ["left"] * 1000 + [f"g{i}" for i in range(9) for _ in range(10)]
    before = [i < 500 or (i >= 1000 and i % 10 < 6) for i in range(1090)]
    after = [i < 600 or (i >= 1000 and i % 10 < 5) for i in range(1090)]
    first, second = (
        [outcome("a", i, rights[i])._replace(group=group) for i, group in enumerate(groups)]
        for rights in (before, after)
    )
    (by_item,) = differences(first, second)
    (by_group,) = differences(first, second, macro_averaged=["a"])
    assert by_item.change == pytest.approx(91 / 1090) and by_item.is_significant
    assert by_group.change == pytest.approx((0.1 - 9 * 0.1) / 10) and by_group.high < 0
    assert differences(first, first)[0].is_significant is False


def test_other_items_of_the_same_number_are_not_compared():
    first = [outcome("a", i, True)._replace(caption=f"caption {i}") for i in range(10)]
    moved = [outcome("a", i, True)._replace(caption=f"caption {i + 1}") for i in range(10)]
    assert differences(first, moved) == []


def test_crops_of_one_image_count_as_one_image():
    whole = [outcome("a", i, i % 2 == 0)._replace(image=f"{i // 10}.jpg") for i in range(200)]
    parts = [o._replace(image=f"{o.image}[1,{i},20,10]") for i, o in enumerate(whole)]
    assert (count_outcomes(whole).correct != count_outcomes(parts).correct).nnz == 0


def test_holm_over_subsets():
    first = [outcome(s, i, False) for s in "abc" for i in range(20)]
    wins = {"a": 6, "b": 8, "c": 1}
    second = [outcome(s, i, i < wins[s]) for s in "abc" for i in range(20)]
    rows = {row.subset: row for row in differences(first, second)}
    p = {s: 2 * 0.5**n for s, n in wins.items()}
    assert rows["b"].adjusted == pytest.approx(3 * p["b"])
    assert rows["a"].adjusted == pytest.approx(2 * p["a"])
    assert rows["c"].adjusted == pytest.approx(1.0)


def test_mean_of_arrays_and_numbers():
    assert mean([1.0, 2.0]) == 1.5
    assert np.array_equal(mean(np.array([[1.0, 2.0], [3.0, 4.0]])), [2.0, 3.0])
