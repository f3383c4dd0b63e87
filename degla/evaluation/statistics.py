"""Accuracies with their intervals, and whether two models differ."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.stats import binomtest

from degla.evaluation.items import Outcome
from degla.evaluation.task import Task

_RESAMPLES = 1000
_BOX = re.compile(r"\[\d+(,\d+){3}\]$")


class Counts(NamedTuple):
    """Right answers and answers, ``(P, G)`` each: P images, G groups of subsets."""

    correct: sparse.csr_matrix
    total: sparse.csr_matrix
    groups: list[tuple[str, str]]  # (subset, group) of each column


class Difference(NamedTuple):
    """What the second of two models does better, in a subset that both have answered."""

    subset: str
    num_items: int  # answered by both
    gained: int  # wrong with the first, right with the second
    lost: int
    change: float  # of the headline over these items
    low: float  # 95 % interval of the change, by paired bootstrap over images
    high: float
    p_value: float  # McNemar's exact test, which takes items for independent
    adjusted: float  # by Holm's method over the subsets of the comparison
    is_sure: bool  # the interval leaves out zero and, where the headline counts items, adjusted < 0.05


def counted(outcomes: Sequence[Outcome]) -> Counts:
    """Sort answers by image and by group."""
    clusters = [_BOX.sub("", outcome.image) for outcome in outcomes]  # parts of one image belong together
    images = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    groups = {key: i for i, key in enumerate(dict.fromkeys((outcome.subset, outcome.group) for outcome in outcomes))}
    rows = [images[name] for name in clusters]
    columns = [groups[outcome.subset, outcome.group] for outcome in outcomes]
    shape = (len(images), len(groups))
    right = sparse.csr_matrix(([float(outcome.correct) for outcome in outcomes], (rows, columns)), shape)
    total = sparse.csr_matrix((np.ones(len(outcomes)), (rows, columns)), shape)
    return Counts(right, total, list(groups))


def accuracies(right: np.ndarray, total: np.ndarray, groups: list[tuple[str, str]], macro: Sequence[str]) -> dict:
    """Subset -> headline accuracy, ``<subset>:micro`` and, where there are groups, ``<subset>:macro``.

    Args:
        right: ``(..., G)`` right answers.
        total: ``(..., G)`` answers; a group without any is left out of the macro mean.
        groups: subset and group of each column; the group "" counts for the micro average only.
        macro: subsets whose headline is the macro average.
    """
    found: dict[str, Any] = {}
    with np.errstate(invalid="ignore", divide="ignore"):
        for subset in dict.fromkeys(subset for subset, _ in groups):
            own = [i for i, (name, _) in enumerate(groups) if name == subset]
            named = [i for i in own if groups[i][1]]
            found[f"{subset}:micro"] = right[..., own].sum(-1) / total[..., own].sum(-1)
            if named:
                rates = right[..., named] / total[..., named]
                found[f"{subset}:macro"] = np.nansum(rates, -1) / (~np.isnan(rates)).sum(-1)
            found[subset] = found[f"{subset}:{'macro' if named and subset in macro else 'micro'}"]
    return found


def scores(task: Task, outcomes: Sequence[Outcome], blind: Sequence[Outcome] = ()) -> dict[str, dict]:
    """Everything a table needs, as JSON can hold it.

    Args:
        task: whose means and macro averages are taken.
        outcomes: of one model.
        blind: of the same model without images.

    Returns:
        ``subsets``: name -> ``accuracy``, ``interval`` (95 %, bootstrap over images), ``micro``, ``macro``,
        ``num_items``, ``ties``, ``chance``, ``blind``; ``means``: name -> ``accuracy``, ``interval``, ``blind``.
    """
    counts = counted(outcomes)
    point = _point(counts, task.macro)
    means = {name: float(value) for name, value in _means(task, point).items()}
    resampled = _resampled(counts, task.macro)
    spread = {**resampled, **{f"mean {name}": value for name, value in _means(task, resampled).items()}}
    unseen = _point(counted(blind), task.macro) if blind else {}
    unseen |= {f"mean {name}": value for name, value in _means(task, unseen).items()} if blind else {}
    by_subset: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_subset.setdefault(outcome.subset, []).append(outcome)
    return {
        "subsets": {
            subset: {
                "accuracy": _rounded(point[subset]),
                "interval": _interval(spread[subset]),
                "micro": _rounded(point[f"{subset}:micro"]),
                "macro": _rounded(point.get(f"{subset}:macro")),
                "num_items": len(members),
                "ties": sum(member.tie for member in members),
                "chance": _rounded(np.mean([member.chance for member in members])),
                "blind": _rounded(unseen.get(subset)),
            }
            for subset, members in by_subset.items()
        },
        "means": {
            name: {
                "accuracy": _rounded(value),
                "interval": _interval(spread[f"mean {name}"]),
                "blind": _rounded(unseen.get(f"mean {name}")),
            }
            for name, value in means.items()
        },
    }


def point_estimates(task: Task, outcomes: Sequence[Outcome]) -> tuple[dict[str, float], dict[str, float]]:
    """Headline accuracies by subset, and means over subsets, without intervals: what is logged during a run."""
    point = _point(counted(outcomes), task.macro)
    subsets = {name: float(value) for name, value in point.items() if ":" not in name}
    return subsets, {name: float(value) for name, value in _means(task, point).items()}


def differences(first: Sequence[Outcome], second: Sequence[Outcome], macro: Sequence[str] = ()) -> list[Difference]:
    """Compare two models item by item, over the items that both have answered.

    Items are the same where name and right caption are: two editions of a benchmark may number them differently.

    Args:
        first: the one that is compared with.
        second: the one that may be better.
        macro: subsets whose headline is the mean over groups.
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
            counted([new._replace(image=old.image, group=old.group) for old, new in both]),
            counted([old for old, _ in both]),
        ]  # under the first one's names, so that both are resampled alike
        spread = np.subtract(*(_resampled(side, macro)[subset] for side in sides))
        p_value = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
        change = float(np.subtract(*(_point(side, macro)[subset] for side in sides)))
        rows.append(Difference(subset, len(both), gained, lost, change, *_interval(spread), p_value, 1.0, False))
    return [
        row._replace(is_sure=(row.low > 0 or row.high < 0) and (row.adjusted < 0.05 or row.subset in macro))
        for row in _adjusted(rows)
    ]


def _adjusted(rows: list[Difference]) -> list[Difference]:
    """Holm's step-down method."""
    order = sorted(range(len(rows)), key=lambda i: rows[i].p_value)
    largest = 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, rows[i].p_value * (len(rows) - place)))
        rows[i] = rows[i]._replace(adjusted=largest)
    return rows


def _point(counts: Counts, macro: Sequence[str]) -> dict:
    right, total = (np.asarray(matrix.sum(0)).ravel() for matrix in (counts.correct, counts.total))
    return accuracies(right, total, counts.groups, macro)


def _resampled(counts: Counts, macro: Sequence[str]) -> dict[str, np.ndarray]:
    """The same over bootstrap samples of images: items that share an image are not independent."""
    rng = np.random.default_rng(0)
    num_images = counts.correct.shape[0]
    sums = []
    for _ in range(_RESAMPLES):
        weights = np.bincount(rng.integers(num_images, size=num_images), minlength=num_images)
        sums.append((counts.correct.T @ weights, counts.total.T @ weights))
    right, total = (np.stack(part) for part in zip(*sums, strict=True))
    return accuracies(right, total, counts.groups, macro)


def _means(task: Task, accuracy: dict) -> dict:
    """Of the subsets that have answers at all."""
    return task.means(accuracy) if all(subset in accuracy for subset in task.subsets) else {}


def _interval(values: np.ndarray) -> list[float]:
    return [_rounded(value) for value in np.nanquantile(values, (0.025, 0.975))]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)
