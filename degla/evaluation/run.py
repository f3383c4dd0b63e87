"""Measure a model on any number of benchmarks at once."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from degla.data.schema import Problem
from degla.evaluation.features import FeatureStore, NoImageFeatures
from degla.evaluation.items import Outcome
from degla.evaluation.scoring import TIE
from degla.evaluation.statistics import score_table
from degla.evaluation.task import Task

_MAX_PROBLEMS = 100  # problems of a benchmark that its record names


class Result(NamedTuple):
    """The answers of one model to one benchmark."""

    outcomes: list[Outcome]
    no_image: list[Outcome]  # answers to the same items without their images; empty if not requested
    repeated: list[Problem]  # items of the same name, and images that are named twice
    bad_images: list[Problem]

    @property
    def problems(self) -> list[Problem]:
        """All problems of single items."""
        return [*self.repeated, *self.bad_images]


def run_benchmarks(
    tasks: Mapping[str, Task], features: FeatureStore, no_image_baseline: bool = False
) -> dict[str, Result]:
    """Encode every image and text of the tasks once, then answer the tasks.

    Args:
        tasks: benchmarks by name.
        features: the features of the model. With several ranks, each calls this with the same tasks and gets the
            same results.
        no_image_baseline: answer every item once more with a grey image.
    """
    for task in tasks.values():
        task.check_items()
    features.add(
        (image for task in tasks.values() for image in task.list_images()),
        (text for task in tasks.values() for text in task.list_texts()),
    )
    baseline = NoImageFeatures(features) if no_image_baseline else None
    results = {}
    for name, task in tasks.items():
        keys = dict.fromkeys(features.key(image) for image in task.list_images())
        bad_images = [features.problems[key] for key in keys if key in features.problems]
        results[name] = Result(
            outcomes=task.outcomes(features),
            no_image=task.outcomes(baseline) if baseline else [],
            repeated=list(task.problems),
            bad_images=bad_images,
        )
    return results


def benchmark_records(
    tasks: Mapping[str, Task], results: Mapping[str, Result], features: FeatureStore
) -> dict[str, dict[str, Any]]:
    """Return scores and protocol of every benchmark, as JSON can hold them (docs/evaluation.md has the schema).

    Args:
        tasks: benchmarks by name.
        results: what ``run_benchmarks`` returned for them.
        features: what it was given.
    """
    records = {}
    for name, result in results.items():
        task = tasks[name]
        protocol = _protocol(task, result, features)
        records[name] = {
            **score_table(task, result.outcomes, result.no_image),
            "protocol": protocol,
            "fingerprint": fingerprint(protocol),
            "official": {subset: task.official_counts.get(subset) for subset in task.subsets},
            "num_left_out": len({problem.row for problem in result.problems if problem.skipped}),
            "problems": [problem._asdict() for problem in result.problems[:_MAX_PROBLEMS]],
        }
    return records


def fingerprint(protocol: Mapping[str, Any]) -> str:
    """Return a hash that is equal where two results were made by the same rules on the same data."""
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:12]


def _protocol(task: Task, result: Result, features: FeatureStore) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for outcome in result.outcomes:
        counts[outcome.subset] = counts.get(outcome.subset, 0) + 1
    return {**features.encoder.protocol(), **task.protocol(), "tie_tolerance": TIE, "num_items": counts}
