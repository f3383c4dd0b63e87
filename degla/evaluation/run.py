"""Measuring a model on any number of benchmarks at once."""

import hashlib
import json
from collections.abc import Mapping
from typing import NamedTuple

from degla.data.schema import Problem
from degla.evaluation.features import Blind, FeatureStore
from degla.evaluation.items import Outcome
from degla.evaluation.scoring import TIE
from degla.evaluation.statistics import scores
from degla.evaluation.task import Task


class Result(NamedTuple):
    """What one benchmark says of one model."""

    outcomes: list[Outcome]
    blind: list[Outcome]  # the same items without their images; empty where that was not asked for
    problems: list[Problem]  # bad images and repeated items


def evaluate(tasks: Mapping[str, Task], features: FeatureStore, blind: bool = False) -> dict[str, Result]:
    """Encode everything the tasks ask about once, then answer them.

    Args:
        tasks: by name.
        features: of the model; with several ranks, each calls this with the same tasks and gets the same results.
        blind: answer every item once more with a grey image.
    """
    features.add(
        (image for task in tasks.values() for image in task.list_images()),
        (text for task in tasks.values() for text in task.list_texts()),
    )
    unseeing = Blind(features) if blind else None
    results = {}
    for name, task in tasks.items():
        keys = dict.fromkeys(features.key(image) for image in task.list_images())
        bad = [features.problems[key] for key in keys if key in features.problems]
        results[name] = Result(
            task.outcomes(features), task.outcomes(unseeing) if unseeing else [], [*task.problems, *bad]
        )
    return results


def record(tasks: Mapping[str, Task], results: Mapping[str, Result], features: FeatureStore) -> dict:
    """Scores and protocol of every benchmark, as JSON can hold them (docs/evaluation.md has the schema)."""
    return {
        name: {
            **scores(tasks[name], result.outcomes, result.blind),
            "protocol": (protocol := _protocol(tasks[name], result, features)),
            "fingerprint": fingerprint(protocol),
            "official": {subset: tasks[name].official.get(subset) for subset in tasks[name].subsets},
            "num_left_out": len({problem.row for problem in result.problems if problem.skipped}),
            "problems": [problem._asdict() for problem in result.problems[:100]],
        }
        for name, result in results.items()
    }


def fingerprint(protocol: dict) -> str:
    """Equal where two results were made by the same rules on the same data."""
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:12]


def _protocol(task: Task, result: Result, features: FeatureStore) -> dict:
    counts: dict[str, int] = {}
    for outcome in result.outcomes:
        counts[outcome.subset] = counts.get(outcome.subset, 0) + 1
    return {**features.encoder.protocol(), **task.protocol(), "tie_tolerance": TIE, "num_items": counts}
