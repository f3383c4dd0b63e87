"""The measure of a study: the candidates of each method, their choice at fixed retention, and their front.

Pure functions. A candidate is a setting of a method at a share of its fine-tuned weights; share 0 is the base model.
Candidates are compared by their means over seeds on the validation split.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from degla.report.study_schema import Run, Scores
from degla.report.study_statistics import hypervolume

REFERENCE_RETENTION = 0.90  # of the base's general accuracy, where the area of a hypervolume begins
_TOLERANCE = 1e-9  # of sums of floats


class Candidate(NamedTuple):
    """A setting at a share, with its means over seeds on the validation split."""

    setting: str  # as text; "" for the base model
    share: float
    general: float
    metric: float

    @property
    def is_base(self) -> bool:
        """Whether this is the base model."""
        return self.share == 0

    @property
    def text(self) -> str:
        """The candidate as tables show it."""
        return "base model" if self.is_base else ", ".join(filter(None, [self.setting, f"share {self.share:g}"]))


class Method(NamedTuple):
    """The runs of a method and what the validation split says about them."""

    name: str
    runs: list[Run]  # all, for the budget
    candidates: list[Candidate]  # the base model first
    chosen: dict[float, Candidate]  # by level of retention
    front: list[Candidate]  # by descending general accuracy

    @property
    def reported(self) -> list[Candidate]:
        """The candidates that are measured on the test split."""
        return list(dict.fromkeys([*self.front, *self.chosen.values()]))


def study_methods(
    runs: Sequence[Run], base: Scores, metric: str, retain: str, retentions: Sequence[float]
) -> dict[str, Method]:
    """Choose the candidates of every method on the validation split.

    Args:
        runs: of all methods.
        base: the base model's scores on the validation split.
        metric: name of the score that is maximised.
        retain: name of the score that must not fall.
        retentions: levels, as fractions of the base's ``retain``.

    Returns:
        Name -> method, in the order of the first run of each.
    """
    by_method: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_method[run.method].append(run)
    methods = {}
    for name, own in by_method.items():
        candidates = candidates_of(own, base, metric, retain)
        chosen = {level: choose(candidates, level * base[retain]) for level in retentions}
        methods[name] = Method(name, own, candidates, chosen, pareto_front(candidates))
    return methods


def runs_by_setting(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return setting, as text -> runs of one method with that setting."""
    by_setting: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_setting[run.label].append(run)
    return dict(by_setting)


def incomplete_settings(runs: Sequence[Run]) -> dict[str, int]:
    """Return setting -> number of seeds of those with fewer seeds than others of the method.

    They are no candidates: the mean of fewer seeds varies more, so the best of many would often be one of them.
    """
    by_setting = runs_by_setting(runs)
    most = max(len(own) for own in by_setting.values())
    return {setting: len(own) for setting, own in by_setting.items() if len(own) < most}


def candidates_of(runs: Sequence[Run], base: Scores, metric: str, retain: str) -> list[Candidate]:
    """Return the candidates of one method, with the base model first.

    Args:
        runs: of the method.
        base: the base model's scores on the validation split.
        metric: name of the score that is maximised.
        retain: name of the score that must not fall.

    Raises:
        ValueError: a score is not a finite number.
    """
    candidates = [Candidate("", 0.0, base[retain], base[metric])]
    left_out = incomplete_settings(runs)
    for setting, own in runs_by_setting(runs).items():
        points: dict[float, list[Scores]] = defaultdict(list)
        for run in own if setting not in left_out else []:
            for point in run.validation:
                points[point.share].append(point.scores)
        for share, scores in points.items():
            means = (fmean(score[name] for score in scores) for name in (retain, metric))
            candidates.append(Candidate(setting, share, *means))
    for candidate in candidates:
        if not (math.isfinite(candidate.general) and math.isfinite(candidate.metric)):
            raise ValueError(f"the scores of {candidate.text} are not finite numbers")
    return candidates


def choose(candidates: Sequence[Candidate], floor: float) -> Candidate:
    """Return the candidate with the best metric among those whose general accuracy is at least ``floor``.

    Of equal ones the more general wins, then the one nearer to the base model, then the first.

    Args:
        candidates: at least one of them reaches the floor.
        floor: general accuracy, as a fraction.
    """
    allowed = [candidate for candidate in candidates if candidate.general >= floor - _TOLERANCE]
    return max(allowed, key=lambda candidate: (candidate.metric, candidate.general, -candidate.share))


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that no other one beats in one score and equals in the other; most general first."""

    def is_beaten(one: Candidate) -> bool:
        return any(
            other.general >= one.general
            and other.metric >= one.metric
            and (other.general, other.metric) != (one.general, one.metric)
            for other in candidates
        )

    return sorted((one for one in candidates if not is_beaten(one)), key=lambda one: (-one.general, one.metric))


def scores_on_test(method: Method, candidate: Candidate, base: Scores, name: str) -> dict[int, float]:
    """Return seed -> a score on the test split.

    Args:
        method: the candidate's.
        candidate: one of ``method.reported``. The base model has the same score for every seed of the method.
        base: the base model's scores on the test split.
        name: a sub-task or mean.

    Raises:
        ValueError: a run was not measured at the candidate's share.
    """
    if candidate.is_base:
        return {run.seed: base[name] for run in sorted(method.runs, key=lambda run: run.seed)}
    scores = {}
    for run in runs_by_setting(method.runs)[candidate.setting]:
        points = [point for point in run.test if point.share == candidate.share]
        if not points:
            raise ValueError(f"{run.run} has no test scores at share {candidate.share:g}")
        scores[run.seed] = points[0].scores[name]
    return dict(sorted(scores.items()))


def hypervolumes(method: Method, base: Scores, metric: str, retain: str) -> dict[int, float]:
    """Return seed -> hypervolume of the method's front on the test split, over the seeds that its candidates share.

    Args:
        method: with test scores.
        base: the base model's scores on the test split.
        metric: name of the score that is maximised.
        retain: name of the score that must not fall.
    """
    scores = [[scores_on_test(method, one, base, name) for name in (retain, metric)] for one in method.front]
    seeds = set.intersection(*(set(general) for general, _ in scores))
    reference = (REFERENCE_RETENTION * base[retain], base[metric])
    return {
        seed: hypervolume([(general[seed], values[seed]) for general, values in scores], reference)
        for seed in sorted(seeds)
    }
