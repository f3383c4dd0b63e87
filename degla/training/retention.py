"""The rule of the retention guard: which candidates it admits, which it keeps, and where its values come from."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from degla.errors import ConfigError
from degla.evaluation.task import Task
from degla.evaluation.tasks.own import Own
from degla.evaluation.tasks.scenes import Scenes
from degla.report.retention import Candidate
from degla.training.validation import RECALL_AT

_CHOICE_SPLITS = ("train", "restval", "val", "validation", "dev")  # splits of a benchmark that may decide something
_OVERALL = "eval_mean/overall"  # the mean over all benchmarks


class Rule(NamedTuple):
    """Take the highest metric among the candidates whose other value is at least ``limit``; None admits all."""

    limit: float | None

    def admits(self, candidate: Candidate) -> bool:
        """Return whether a candidate keeps enough."""
        return self.limit is None or (candidate.retain is not None and candidate.retain >= self.limit)

    def best(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """Return the best candidate that is admitted, the first of equal ones; None if none is admitted."""
        admitted = [candidate for candidate in candidates if self.admits(candidate)]
        return max(admitted, key=lambda c: (c.metric, _kept(c)), default=None)

    def best_or_nearest(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """Return the best candidate, or the one that keeps most where none is admitted; None if there are none."""
        return self.best(candidates) or nearest(candidates)


def nearest(candidates: Sequence[Candidate]) -> Candidate | None:
    """Return the candidate that keeps most, the first of equal ones."""
    return max(candidates, key=lambda c: (_kept(c), c.metric), default=None)


def measurements_since(best: Candidate, history: Sequence[Candidate]) -> int:
    """Return how many measurements followed that of ``best``.

    Args:
        best: one of ``history``.
        history: measurements in order of steps.
    """
    return len(history) - 1 - [candidate.step for candidate in history].index(best.step)


def _kept(candidate: Candidate) -> float:
    return 0.0 if candidate.retain is None else candidate.retain


def available_metrics(
    benchmarks: Mapping[str, Task], negative_types: Sequence[str], has_validation: bool
) -> dict[str, set[str]]:
    """Return every metric that a run can measure, and the benchmarks that it is computed from.

    Args:
        benchmarks: name -> benchmark of ``callbacks.evaluate``.
        negative_types: types of the negatives of the validation samples.
        has_validation: whether there are validation samples.
    """
    names: dict[str, set[str]] = {}
    for benchmark, task in benchmarks.items():
        accuracy = {f"{subset}{kind}": 0.0 for subset in task.subsets for kind in ("", ":micro", ":macro")}
        names |= {f"eval/{benchmark}/{subset}": {benchmark} for subset in task.subsets}
        names |= {f"eval_mean/{benchmark}/{mean}": {benchmark} for mean in task.means(accuracy)}
    if benchmarks:
        names[_OVERALL] = set(benchmarks)
    if has_validation:
        recalls = [f"{way}_r@{k}" for way in ("image_to_text", "text_to_image") for k in RECALL_AT]
        choices = ["caption_choice", *(f"caption_choice/{name}" for name in negative_types)] if negative_types else []
        names |= {f"val/{name}": set() for name in (*choices, *recalls)}
    return names


def check_metric(key: str, name: str | None, available: Collection[str]) -> None:
    """Refuse a metric that the run will not measure.

    Args:
        key: config key that names it.
        name: its name; None where it is not set.
        available: all metrics.

    Raises:
        ConfigError: the name is not among them.
    """
    if name in available:
        return
    if not available:
        raise ConfigError(
            f"{key}: this run measures nothing to choose by: set a benchmark, or hold out samples with "
            "loader.val_fraction"
        )
    close = difflib.get_close_matches(name or "", available, n=1)
    problem = "is not set" if name is None else f"={name} is not measured by this run"
    names = f"did you mean {close[0]}, or another of" if close else "choose one of"
    raise ConfigError(f"{key}{' ' if name is None else ''}{problem}: {names} {', '.join(available)}")


class ChoiceTasks(NamedTuple):
    """The benchmarks that the guard chooses by."""

    own: dict[str, Task]  # those that it measures itself, on a validation split
    shared: dict[str, Task]  # those whose values it takes from ``callbacks.evaluate``
    sources: dict[str, str]  # benchmark -> the data behind its values
    test_data: list[str]  # benchmarks of test data that have no validation split here


def choice_tasks(benchmarks: Mapping[str, Task], needed: Collection[str]) -> ChoiceTasks:
    """Find data that may decide something for each benchmark.

    Args:
        benchmarks: name -> benchmark of ``callbacks.evaluate``.
        needed: names of those that the guard's metrics are computed from.
    """
    tasks = ChoiceTasks({}, {}, {}, [])
    for name in sorted(needed):
        task = benchmarks[name]
        split = getattr(task, "split", None)
        if isinstance(task, Scenes) and split not in _CHOICE_SPLITS:
            tasks.own[name] = Scenes("validation", task.num_items, task.image_size, name, task.subsets, task.ties)
            tasks.sources[name] = "its validation split"
            continue
        tasks.shared[name] = task
        is_choice_data = split in _CHOICE_SPLITS or isinstance(task, Own)
        tasks.sources[name] = f"split {split}" if split in _CHOICE_SPLITS else "its items"
        if not is_choice_data:
            tasks.sources[name] = "test data"
            tasks.test_data.append(name)
    return tasks
