"""Choice at fixed retention, fronts, hypervolumes and intervals, on numbers made by hand."""

import math
import random

import pytest

from degla.report.study_measure import (
    Candidate,
    candidates_of,
    choose,
    hypervolumes,
    incomplete_settings,
    pareto_front,
    scores_on_test,
    study_methods,
)
from degla.report.study_statistics import hypervolume, mean_and_interval, paired_differences
from tests.helpers.study import run, scores

BASE = scores(0.9, 0.7)


def methods_of(runs, levels=(0.99, 0.95)):
    return study_methods(runs, BASE, "metric", "general", levels)


def test_candidates_are_means_over_seeds_with_the_base_first():
    runs = [
        run("a", 1e-3, 0, {0.5: (0.9, 0.7), 1.0: (0.8, 0.8)}),
        run("a", 1e-3, 1, {0.5: (0.8, 0.9), 1.0: (0.6, 0.9)}),
    ]
    base, half, whole = candidates_of(runs, BASE, "metric", "general")
    assert base == Candidate("", 0.0, 0.9, 0.7) and base.is_base and base.text == "base model"
    assert half[:2] == ("lr=0.001", 0.5) and half[2:] == pytest.approx((0.85, 0.8))
    assert whole[2:] == pytest.approx((0.7, 0.85)) and whole.text == "lr=0.001, share 1"


def test_the_best_candidate_above_the_floor_is_chosen_by_the_mean_over_seeds():
    """At 99 % of 0.9, 0.891, only the lower rate is general enough; at 95 %, 0.855, the higher one is better."""
    low = [run("a", 1e-4, seed, {1.0: (0.895, value)}) for seed, value in enumerate((0.72, 0.74))]
    high = [run("a", 1e-3, seed, {1.0: pair}) for seed, pair in enumerate(((0.85, 0.99), (0.87, 0.61)))]
    method = methods_of([*low, *high])["a"]
    assert method.chosen[0.99].setting == "lr=0.0001" and method.chosen[0.95].setting == "lr=0.001"
    assert [one.setting for one in method.front] == ["", "lr=0.0001", "lr=0.001"]


def test_a_floor_is_reached_by_an_equal_score():
    """0.97 * 0.9 has no exact float, and the mean of three equal scores may differ in the last bit."""
    value = 0.97 * 0.9
    runs = [run("a", 1e-3, seed, {1.0: (value, 0.8)}) for seed in range(3)]
    assert not methods_of(runs, (0.97,))["a"].chosen[0.97].is_base
    runs = [run("a", 1e-3, seed, {1.0: (value - 1e-6, 0.8)}) for seed in range(3)]
    assert methods_of(runs, (0.97,))["a"].chosen[0.97].is_base


def test_the_base_is_chosen_where_nothing_is_better():
    method = methods_of([run("a", 1e-3, 0, {1.0: (0.5, 0.99)}), run("a", 1e-3, 1, {1.0: (0.5, 0.99)})])["a"]
    assert all(one.is_base for one in method.chosen.values())
    assert scores_on_test(method, method.chosen[0.99], scores(0.8, 0.6), "metric") == {0: 0.6, 1: 0.6}


def test_of_equal_candidates_the_more_general_wins_then_the_nearer_to_the_base():
    base, one, other = Candidate("", 0, 0.9, 0.7), Candidate("x", 0.5, 0.9, 0.7), Candidate("y", 0.25, 0.91, 0.7)
    assert choose([base, one], 0.8) == base and choose([one, base], 0.8) == base
    assert choose([base, one, other], 0.8) == other
    assert choose([one, one._replace(setting="z")], 0.8).setting == "x"


def test_the_front_holds_what_nothing_beats():
    points = [(0.9, 0.7), (0.85, 0.8), (0.85, 0.75), (0.8, 0.8), (0.7, 0.9), (0.9, 0.7)]
    candidates = [Candidate(str(number), 0.5, *pair) for number, pair in enumerate(points)]
    assert [one.setting for one in pareto_front(candidates)] == ["0", "5", "1", "4"]


@pytest.mark.parametrize("seed", range(5))
def test_the_front_against_a_slow_check(seed):
    rng = random.Random(seed)
    points = [Candidate(str(i), 1.0, rng.randint(0, 9) / 10, rng.randint(0, 9) / 10) for i in range(30)]
    front = pareto_front(points)
    for one in points:
        better = [o for o in points if o[2] >= one.general and o[3] >= one.metric and o[2:] != one[2:]]
        assert (one in front) == (not better)
    assert [one.general for one in front] == sorted((one.general for one in front), reverse=True)


def test_a_setting_with_fewer_seeds_is_no_candidate():
    runs = [run("a", 1e-3, seed, {1.0: (0.9, 0.75)}) for seed in range(3)] + [run("a", 1e-4, 0, {1.0: (0.9, 0.99)})]
    assert incomplete_settings(runs) == {"lr=0.0001": 1}
    assert methods_of(runs)["a"].chosen[0.95].setting == "lr=0.001"


def test_nan_is_refused():
    runs = [run("a", 1e-3, 0, {1.0: (0.9, 0.75)})]
    with pytest.raises(ValueError, match="base model are not finite"):
        candidates_of(runs, {"general": math.nan, "metric": 0.5}, "metric", "general")
    with pytest.raises(ValueError, match="finite number"):
        run("a", 1e-3, 0, {1.0: (math.nan, 0.75)})
    for points, reference in (([(math.nan, 1)], (0, 0)), ([(1, 1)], (math.inf, 0))):
        with pytest.raises(ValueError, match="finite"):
            hypervolume(points, reference)


def test_hypervolume_by_hand():
    """Above (1, 1): two by one, one by two, counted once where they overlap; points at or below add nothing."""
    assert hypervolume([], (0, 0)) == hypervolume([(1, 5), (5, 1), (0.5, 9)], (1, 1)) == 0
    assert hypervolume([(3, 2), (2, 3), (2, 2), (3, 2)], (1, 1)) == pytest.approx(3)


@pytest.mark.parametrize("seed", range(8))
def test_hypervolume_against_a_count_of_cells(seed):
    """On a grid, the area is the number of cells whose upper right corner some point reaches."""
    rng = random.Random(seed)
    size, corner = 20, (rng.randint(0, 8), rng.randint(0, 8))
    points = [(rng.randint(0, size), rng.randint(0, size)) for _ in range(rng.randint(0, 12))]
    cells = sum(
        any(x + 1 <= px and y + 1 <= py for px, py in points)
        for x in range(corner[0], size)
        for y in range(corner[1], size)
    )
    assert hypervolume(points, corner) == cells
    assert hypervolume([(x / 7, y / 7) for x, y in points], (corner[0] / 7, corner[1] / 7)) == pytest.approx(cells / 49)


def test_hypervolumes_are_of_the_front_on_the_test_split_per_seed():
    """Base (0.9, 0.7), so the corner is (0.81, 0.7). The share of 0.5 is beaten on validation, so it adds nothing."""
    validation = {0.5: (0.86, 0.75), 1.0: (0.87, 0.8)}
    runs = [
        run("a", 1e-3, 0, validation, {0.5: (0.9, 0.99), 1.0: (0.86, 0.8)}),
        run("a", 1e-3, 1, validation, {0.5: (0.9, 0.99), 1.0: (0.91, 0.72)}),
        run("a", 1e-3, 2, validation, {0.5: (0.9, 0.99), 1.0: (0.80, 0.9)}),
    ]
    areas = hypervolumes(methods_of(runs)["a"], BASE, "metric", "general")
    assert areas == pytest.approx({0: 0.05 * 0.1, 1: 0.1 * 0.02, 2: 0})


def test_paired_differences_are_over_common_seeds():
    assert paired_differences({0: 0.5, 2: 0.9, 1: 0.7}, {1: 0.5, 2: 0.8, 7: 0.1}) == pytest.approx([0.2, 0.1])
    assert paired_differences({0: 1.0}, {1: 1.0}) == []


def test_interval_by_hand():
    """1, 2, 3: mean 2, s 1, t 4.302653 with two degrees of freedom; five values: t 2.776445."""
    mean, half = mean_and_interval([1.0, 2.0, 3.0])
    assert mean == 2 and half == pytest.approx(4.302653 / math.sqrt(3))
    assert mean_and_interval([0.0, 0.0, 0.0, 0.0, 5.0])[1] == pytest.approx(2.776445 * math.sqrt(5) / math.sqrt(5))
    assert mean_and_interval([1.0])[0] == 1 and math.isnan(mean_and_interval([1.0])[1])
