"""The record of a study as plain data: its runs, the learning rates chosen, the scores on the test split."""

import math
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from degla.artifacts import read_metrics

# Two-sided 95 % quantiles of Student's t by degrees of freedom.
_T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
BOTH_MEANS = ("compositional", "general")  # the two means that tables and plots set against each other


class StudyRun(NamedTuple):
    """A finished run of one method."""

    method: str
    lr: float
    seed: int
    folder: Path
    validation: dict[str, float]  # means on the validation split at the end of the run
    seconds: float  # of training, evaluation included


def find_runs(folder: Path) -> list[StudyRun]:
    """Return the finished runs below ``<folder>/<method>/``, in the order of their names."""
    runs = []
    for record in sorted(folder.glob("*/*/finished.json")):
        config = OmegaConf.load(record.parent / "config.yaml")
        metrics = read_metrics(record.parent / "metrics.csv")
        start = "eval_mean/scenes/"
        means = {
            name.removeprefix(start).replace("average", "overall"): values[max(values)]
            for name, values in metrics.items()
            if name.startswith(start)
        }
        seconds = record.stat().st_mtime - (record.parent / "config.yaml").stat().st_mtime
        runs.append(StudyRun(config.name, config.optimizer.lr, config.seed, record.parent, means, seconds))
    return runs


def chosen_runs(runs: list[StudyRun]) -> list[StudyRun]:
    """Return each method's runs, one per seed, at the rate with the best mean ``overall`` on the validation split."""
    by_rate: dict[str, dict[float, list[StudyRun]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        by_rate[run.method][run.lr].append(run)
    chosen = []
    for rates in by_rate.values():
        chosen += max(rates.values(), key=lambda seeds: fmean(run.validation["overall"] for run in seeds))
    return chosen


def study_record(
    runs: list[StudyRun],
    tuned: list[tuple[StudyRun, list[float]]],
    start: dict[str, float],
    scores: list[list[dict[str, float]]],
) -> dict[str, Any]:
    """Return everything that tables and plots need, in types that JSON can hold.

    Args:
        runs: all finished runs, for the choice of the rates.
        tuned: each run that was measured on the test split, with its shares of fine-tuned weights.
        start: scores of the model that all runs started from.
        scores: the scores of each run in ``tuned`` at each of its shares.
    """
    methods: dict[str, dict[str, Any]] = {}
    for run in runs:
        method = methods.setdefault(run.method, {"validation": [], "test": []})
        method["validation"].append(
            {"lr": run.lr, "seed": run.seed, "seconds": round(run.seconds), **_rounded(run.validation)}
        )
    for run in chosen_runs(runs):
        methods[run.method]["lr"] = run.lr
    for (run, shares), points in zip(tuned, scores, strict=True):
        methods[run.method]["test"] += [
            {"lr": run.lr, "seed": run.seed, "share": share, "scores": _rounded(point)}
            for share, point in zip(shares, points, strict=True)
        ]
    ablations_last = dict(sorted(methods.items(), key=lambda item: (is_ablation(item[0]), item[0])))
    return {"start": _rounded(start), "methods": ablations_last}


def is_ablation(method: str) -> bool:
    """Return whether a method is DeGLA with one part changed."""
    return method.startswith("degla_")


def scores_of(method: dict[str, Any], name: str, share: float = 1.0, lr: float | None = None) -> list[float]:
    """Return a method's scores on the test split, one per seed.

    Args:
        method: its entry in the record.
        name: a sub-task or mean.
        share: part of the fine-tuned weights.
        lr: learning rate; None takes the method's own.
    """
    setting = (lr or method["lr"], share)
    return [point["scores"][name] for point in method["test"] if (point["lr"], point["share"]) == setting]


def rates_of(record: dict[str, Any]) -> list[float]:
    """Return the learning rates of a study in ascending order."""
    return sorted({run["lr"] for method in record["methods"].values() for run in method["validation"]})


def _rounded(scores: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in scores.items()}


def mean_and_interval(values: list[float]) -> tuple[float, float]:
    """Return the mean, and half the width of its 95 % interval by Student's t; nan for one value."""
    if len(values) < 2:
        return fmean(values), math.nan
    return fmean(values), _T95.get(len(values) - 1, 1.96) * stdev(values) / math.sqrt(len(values))
