"""Statistics of a study on plain numbers: the area under a front, paired differences, intervals over seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev

from scipy.stats import t as student_t


def hypervolume(points: Iterable[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Return the area of the plane that lies between a reference point and at least one of the points.

    Args:
        points: (x, y), to be large. One that is not above the reference point in both adds nothing.
        reference: (x, y), the lower left corner.

    Raises:
        ValueError: a number is not finite.
    """
    points = list(points)
    if not all(math.isfinite(number) for point in [*points, reference] for number in point):
        raise ValueError("a hypervolume needs finite numbers")
    above = sorted((p for p in points if p[0] > reference[0] and p[1] > reference[1]), reverse=True)
    area, height = 0.0, reference[1]
    for position, (x, y) in enumerate(above):
        height = max(height, y)
        next_x = above[position + 1][0] if position + 1 < len(above) else reference[0]
        area += (x - next_x) * (height - reference[1])
    return area


def paired_differences(first: Mapping[int, float], second: Mapping[int, float]) -> list[float]:
    """Return ``first - second`` for each seed that both have, in the order of the seeds.

    Args:
        first: seed -> score of one method.
        second: seed -> score of the other.
    """
    return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean, and half the width of its 95 % interval by Student's t; nan for one value."""
    if len(values) < 2:
        return fmean(values), math.nan
    quantile = float(student_t.ppf(0.975, len(values) - 1))
    return fmean(values), quantile * stdev(values) / math.sqrt(len(values))
