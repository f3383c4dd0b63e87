"""Accuracies with their intervals, and whether two models differ."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import binomtest

from degla.evaluation.items import Outcome
from degla.evaluation.task import Task

Array = NDArray[np.float64]

_RESAMPLES = 1000
_BOX = re.compile(r"\[\d+(,\d+){3}\]$")  # the part of an image in the name of an ImageRef


class Counts(NamedTuple):
    """Numbers of correct and of all answers, ``(P, G)`` each: P images, G groups of subsets."""

    correct: sparse.csr_matrix
    total: sparse.csr_matrix
    groups: list[tuple[str, str]]  # (subset, group) of each column


class Difference(NamedTuple):
    """The change from the first model to the second in a subset that both have answered."""

    subset: str
    num_items: int  # answered by both
    gained: int  # wrong with the first, correct with the second
    lost: int  # correct with the first, wrong with the second
    change: float  # of the headline accuracy over these items
    low: float  # 95 % interval of the change, by paired bootstrap over images
    high: float
    p_value: float  # McNemar's exact test, which treats items as independent
    adjusted: float  # the p-value after Holm's correction over the subsets of the comparison
    is_significant: bool  # the interval excludes zero and, where the headline counts items, adjusted < 0.05


def count_outcomes(outcomes: Sequence[Outcome]) -> Counts:
    """Count correct answers and answers by image and by group."""
    clusters = [_BOX.sub("", outcome.image) for outcome in outcomes]  # parts of one image belong together
    images = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    groups = {key: i for i, key in enumerate(dict.fromkeys((outcome.subset, outcome.group) for outcome in outcomes))}
    rows = [images[name] for name in clusters]
    columns = [groups[outcome.subset, outcome.group] for outcome in outcomes]
    shape = (len(images), len(groups))
    correct = sparse.csr_matrix(([float(outcome.correct) for outcome in outcomes], (rows, columns)), shape)
    total = sparse.csr_matrix((np.ones(len(outcomes)), (rows, columns)), shape)
    return Counts(correct, total, list(groups))


def accuracies(
    correct: Array, total: Array, groups: Sequence[tuple[str, str]], macro_averaged: Sequence[str]
) -> dict[str, Any]:
    """Return the accuracies of each subset, as numbers or, with leading dimensions, as arrays.

    Args:
        correct: ``(..., G)`` numbers of correct answers.
        total: ``(..., G)`` numbers of answers; a group without any is left out of the macro mean.
        groups: subset and group of each column; the group "" counts for the micro average only.
        macro_averaged: subsets whose headline is the macro average.

    Returns:
        Subset -> headline accuracy, ``<subset>:micro`` and, where there are groups, ``<subset>:macro``.
    """
    accuracy: dict[str, Any] = {}
    with np.errstate(invalid="ignore", divide="ignore"):
        for subset in dict.fromkeys(subset for subset, _ in groups):
            own = [i for i, (name, _) in enumerate(groups) if name == subset]
            named = [i for i in own if groups[i][1]]
            accuracy[f"{subset}:micro"] = correct[..., own].sum(-1) / total[..., own].sum(-1)
            if named:
                rates = correct[..., named] / total[..., named]
                accuracy[f"{subset}:macro"] = np.nansum(rates, -1) / (~np.isnan(rates)).sum(-1)
            accuracy[subset] = accuracy[f"{subset}:{'macro' if named and subset in macro_averaged else 'micro'}"]
    return accuracy


def score_table(
    task: Task, outcomes: Sequence[Outcome], no_image: Sequence[Outcome] = ()
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return everything that a table shows of one model, as JSON can hold it.

    Args:
        task: defines the means and the macro averages.
        outcomes: answers of the model.
        no_image: answers of the same model to the same items without their images.

    Returns:
        ``subsets``: name -> ``accuracy``, ``interval`` (95 %, bootstrap over images), ``micro``, ``macro``,
        ``num_items``, ``ties``, ``chance``, ``blind`` (accuracy without images); ``means``: name -> ``accuracy``,
        ``interval``, ``blind``.
    """
    counts = count_outcomes(outcomes)
    point = _point(counts, task.macro_averaged)
    means = {name: float(value) for name, value in _means(task, point).items()}
    resampled = _resampled(counts, task.macro_averaged)
    spread = {**resampled, **{f"mean {name}": value for name, value in _means(task, resampled).items()}}
    unseen = _point(count_outcomes(no_image), task.macro_averaged) if no_image else {}
    unseen |= {f"mean {name}": value for name, value in _means(task, unseen).items()} if no_image else {}
    by_subset: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_subset.setdefault(outcome.subset, []).append(outcome)
    return {
        "subsets": {
            subset: {
                "accuracy": _rounded(point[subset]),
                "interval": _interval(spread[subset]),
                "micro": _rounded(point[f"{subset}:micro"]),
                "macro": _rounded_or_none(point.get(f"{subset}:macro")),
                "num_items": len(members),
                "ties": sum(member.tie for member in members),
                "chance": _rounded(np.mean([member.chance for member in members])),
                "blind": _rounded_or_none(unseen.get(subset)),
            }
            for subset, members in by_subset.items()
        },
        "means": {
            name: {
                "accuracy": _rounded(value),
                "interval": _interval(spread[f"mean {name}"]),
                "blind": _rounded_or_none(unseen.get(f"mean {name}")),
            }
            for name, value in means.items()
        },
    }


def point_estimates(task: Task, outcomes: Sequence[Outcome]) -> tuple[dict[str, float], dict[str, float]]:
    """Return accuracies without intervals, for the log of a run.

    Args:
        task: defines the means and the macro averages.
        outcomes: answers of the model.

    Returns:
        Subset -> headline accuracy, and name of a mean over subsets -> its value.
    """
    point = _point(count_outcomes(outcomes), task.macro_averaged)
    subsets = {name: float(value) for name, value in point.items() if ":" not in name}
    return subsets, {name: float(value) for name, value in _means(task, point).items()}


def differences(
    first: Sequence[Outcome], second: Sequence[Outcome], macro_averaged: Sequence[str] = ()
) -> list[Difference]:
    """Compare two models item by item, over the items that both have answered.

    Two items are the same where both their name and their correct caption are equal, because two editions of a
    benchmark may number their items differently.

    Args:
        first: answers of the model that is the base of the comparison.
        second: answers of the other model.
        macro_averaged: subsets whose headline is the mean over groups.
    """
    before = {(outcome.subset, outcome.item): outcome for outcome in first}
    pairs: dict[str, list[tuple[Outcome, Outcome]]] = {}
    for outcome in second:
        old = before.get((outcome.subset, outcome.item))
        if old is not None and old.caption == outcome.caption:
            pairs.setdefault(outcome.subset, []).append((old, outcome))
    rows = []
    for subset, both in pairs.items():
        gained = sum(new.correct and not old.correct for old, new in both)
        lost = sum(old.correct and not new.correct for old, new in both)
        sides = [
            count_outcomes([new._replace(image=old.image, group=old.group) for old, new in both]),
            count_outcomes([old for old, _ in both]),
        ]  # with the image names of the first, so that both are resampled alike
        spread = np.subtract(*(_resampled(side, macro_averaged)[subset] for side in sides))
        change = float(np.subtract(*(_point(side, macro_averaged)[subset] for side in sides)))
        low, high = _interval(spread)
        p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
        rows.append(Difference(subset, len(both), gained, lost, change, low, high, p_value, 1.0, is_significant=False))
    return [row._replace(is_significant=_is_significant(row, row.subset in macro_averaged)) for row in _adjusted(rows)]


def _is_significant(row: Difference, is_macro_averaged: bool) -> bool:
    # McNemar's test is about items, so it says nothing about a mean over groups.
    return (row.low > 0 or row.high < 0) and (row.adjusted < 0.05 or is_macro_averaged)


def _adjusted(rows: list[Difference]) -> list[Difference]:
    """Adjust the p-values by Holm's step-down method."""
    order = sorted(range(len(rows)), key=lambda i: rows[i].p_value)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, rows[i].p_value * (len(rows) - rank)))
        rows[i] = rows[i]._replace(adjusted=largest)
    return rows


def _point(counts: Counts, macro_averaged: Sequence[str]) -> dict[str, Any]:
    correct, total = (np.asarray(matrix.sum(0), np.float64).ravel() for matrix in (counts.correct, counts.total))
    return accuracies(correct, total, counts.groups, macro_averaged)


def _resampled(counts: Counts, macro_averaged: Sequence[str]) -> dict[str, Any]:
    """Return accuracies over bootstrap samples of images, because items that share an image are not independent."""
    rng = np.random.default_rng(0)
    num_images = counts.correct.shape[0]
    sums = []
    for _ in range(_RESAMPLES):
        weights = np.bincount(rng.integers(num_images, size=num_images), minlength=num_images)
        sums.append((counts.correct.T @ weights, counts.total.T @ weights))
    correct, total = (np.stack(part) for part in zip(*sums, strict=True))
    return accuracies(correct, total, counts.groups, macro_averaged)


def _means(task: Task, accuracy: Mapping[str, Any]) -> dict[str, Any]:
    """Return the task's means, or nothing where a subset has no answers at all."""
    return task.means(accuracy) if all(subset in accuracy for subset in task.subsets) else {}


def _interval(values: Array) -> list[float]:
    return [_rounded(value) for value in np.nanquantile(values, (0.025, 0.975))]


def _rounded(value: Any) -> float:
    return round(float(value), 6)


def _rounded_or_none(value: Any) -> float | None:
    return None if value is None else _rounded(value)
