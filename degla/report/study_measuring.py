"""Measure the runs of a study, several at once, and keep every score as soon as it is there."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed
from pydantic import ValidationError
from tqdm import tqdm

from degla.errors import ConfigError, DataError
from degla.evaluation import Task
from degla.evaluation.mixed_weights import base_fingerprint, measure_mixtures, task_fingerprint
from degla.models import has_bundled_weights
from degla.report.study_runs import FoundRun
from degla.report.study_schema import Point, Run, Scores
from degla.report.study_scores import MeasuredScores, file_fingerprint

Job = tuple[FoundRun | None, Sequence[float]]  # a run, or None for the base model, and shares of its weights


class Measurement:
    """The scores of runs and of the model that they started from.

    Args:
        base: arguments of ``load_clip`` for that model.
        tasks: split -> benchmark.
        runs: all runs.
        path: file in which scores are kept, so that a stopped study continues.
        n_jobs: number of models that are measured at once; -1 is one per core.
    """

    def __init__(
        self, base: Mapping[str, Any], tasks: Mapping[str, Task], runs: Sequence[FoundRun], path: Path, n_jobs: int
    ):
        self.base = base
        self.tasks = tasks
        self.n_jobs = n_jobs
        self.base_fingerprint = base_fingerprint(base)
        self._task_fingerprints = {split: task_fingerprint(task) for split, task in tasks.items()}
        self._weights = {run.name: file_fingerprint(run.weights) for run in runs}
        self._measured = MeasuredScores(path)

    def scores(self, split: str, jobs: Sequence[Job]) -> list[dict[float, Scores]]:
        """Return share -> scores for each job; what was measured before is not measured again.

        Args:
            split: which of the benchmarks.
            jobs: what to measure.

        Raises:
            DataError: a score is not a fraction, such as nan.
        """
        missing: list[Job] = []
        for run, shares in jobs:
            if left := [share for share in shares if self._measured.get(self._key(split, run, share)) is None]:
                missing.append((run, left))
        for (run, shares), scores in zip(missing, self._measure(split, missing), strict=True):
            self._keep(split, run, dict(zip(shares, scores, strict=True)))
        return [
            {share: self._measured.get(self._key(split, run, share)) or {} for share in shares} for run, shares in jobs
        ]

    def _measure(self, split: str, jobs: Sequence[Job]) -> Iterator[list[Scores]]:
        if not jobs:
            return iter(())
        num_threads = None if self.n_jobs == 1 else 1  # processes side by side would compete for the cores
        results = Parallel(n_jobs=self.n_jobs, return_as="generator")(
            delayed(measure_mixtures)(self.tasks[split], self.base, run.weights if run else None, shares, num_threads)
            for run, shares in jobs
        )
        return iter(tqdm(results, total=len(jobs), desc=f"Measuring models, {split}", unit="model"))

    def _keep(self, split: str, run: FoundRun | None, scores: Mapping[float, Scores]) -> None:
        try:
            self._measured.add({self._key(split, run, share): own for share, own in scores.items()})
        except ValidationError as error:
            name = run.folder if run else "the base model"
            problem = error.errors(include_url=False)[0]
            raise DataError(
                f"{name}: the score {problem['loc'][-1]} on {split} is {problem['input']}, not an accuracy; "
                "measure it with degla-evaluate to see why, or move the run away"
            ) from error

    def _key(self, split: str, run: FoundRun | None, share: float) -> str:
        name, weights = (run.name, self._weights[run.name]) if run else ("base model", "")
        return json.dumps([name, weights, share, self.base_fingerprint, split, self._task_fingerprints[split]])


def refuse_random_base(base: Mapping[str, Any]) -> None:
    """Refuse runs that started from random weights, because no base model can be built again to compare them with.

    Args:
        base: arguments of ``load_clip``.

    Raises:
        ConfigError: the model has neither weights of its own nor ``pretrained``.
    """
    if base.get("pretrained") is None and not has_bundled_weights(base["name"]):
        raise ConfigError(
            f"the runs started from random weights (model.name={base['name']}, model.pretrained=null), so there is no "
            "base model whose scores they could keep: give runs that start from pre-trained weights"
        )


def validated_runs(
    found: Sequence[FoundRun], scores: Sequence[Mapping[float, Scores]], left_out: Collection[str]
) -> list[Run]:
    """Return the runs of a record with their scores on the validation split.

    Args:
        found: the runs.
        scores: share -> scores of each run.
        left_out: names of scores that the record does not need.
    """
    return [
        Run(
            run=run.name,
            method=run.method,
            setting=run.setting,
            seed=run.seed,
            steps=run.steps,
            minutes=run.minutes,
            validation=[
                Point(share=share, scores={name: value for name, value in own.items() if name not in left_out})
                for share, own in by_share.items()
            ],
        )
        for run, by_share in zip(found, scores, strict=True)
    ]


def tested_runs(runs: Sequence[Run], scores: Sequence[Mapping[float, Scores]]) -> list[Run]:
    """Return the runs of a record with their scores on the test split as well.

    Args:
        runs: what ``validated_runs`` returned.
        scores: share -> scores of each run.
    """
    return [
        run.model_copy(update={"test": [Point(share=share, scores=own) for share, own in by_share.items()]})
        for run, by_share in zip(runs, scores, strict=True)
    ]
