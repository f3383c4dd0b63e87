"""Benchmarks before the first step, every so many steps, and after the last."""

from collections.abc import Mapping
from contextlib import nullcontext
from statistics import fmean
from typing import Annotated, Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from degla.bounds import bounded, share, whole
from degla.evaluation import Encoder, FeatureStore, Task, point_estimates, run_benchmarks
from degla.evaluation.coverage import require_images
from degla.models import ClipModel
from degla.models.sharding import is_sharded
from degla.training.callbacks.progress import ProgressBar
from degla.training.module import DeGLAModule


class Evaluate(Callback):
    """Logs ``eval/<benchmark>/<subset>`` and ``eval_mean/<benchmark>/<mean>`` against optimizer steps.

    ``eval_mean/overall`` is the mean of the benchmarks' averages. The ranks share the work, except under FSDP2, where
    every rank must take part in every forward pass.

    Args:
        benchmarks: name -> benchmark.
        every_n_steps: optimizer steps from one evaluation to the next.
        num_workers: processes that decode images.
        max_missing: share of a benchmark's images that may be missing; more is an error before the first step.
    """

    @bounded("callbacks.evaluate")
    def __init__(
        self,
        benchmarks: Mapping[str, Task],
        every_n_steps: Annotated[int, whole(1)] = 500,
        num_workers: Annotated[int, whole(0)] = 0,
        max_missing: Annotated[float, share()] = 0.01,
    ):
        self.benchmarks = benchmarks
        self.every_n_steps = every_n_steps
        self.num_workers = num_workers
        self.max_missing = max_missing
        self._evaluated_step: int | None = None
        self._values: dict[str, float] | None = None  # of that step; None after a resume

    def state_dict(self) -> dict[str, Any]:
        """Return the step of the last evaluation."""
        return {"evaluated": self._evaluated_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the step of the last evaluation, so that it is not repeated."""
        self._evaluated_step = state_dict["evaluated"]

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check that the images of the benchmarks exist, before the first step.

        Raises:
            ConfigError: a benchmark holds no items, or malformed ones.
            DataError: a benchmark lacks more images than ``max_missing``, or all of them.
        """
        if stage == "fit":
            require_images(self.benchmarks, self.max_missing, key="callbacks.evaluate.max_missing")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate the student before training, or make up for an evaluation that a signal prevented."""
        self._evaluate_if_due(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate every ``every_n_steps`` steps, but not after a signal, when there may be no time for it."""
        if not trainer.received_sigterm:
            self._evaluate_if_due(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate the trained student."""
        if trainer.global_step != self._evaluated_step:
            self._evaluate(trainer, pl_module)

    def _evaluate_if_due(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step % self.every_n_steps == 0 and trainer.global_step != self._evaluated_step:
            self._evaluate(trainer, pl_module)

    def values_at(self, step: int) -> dict[str, float] | None:
        """Return every metric of the evaluation at a step; None if this process has not evaluated that step last."""
        return self._values if step == self._evaluated_step else None

    def _evaluate(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, DeGLAModule)
        self._evaluated_step = trainer.global_step
        self._values = measure_benchmarks(self.benchmarks, trainer, pl_module.student, self.num_workers)
        for logger in trainer.loggers:
            logger.log_metrics(self._values, step=trainer.global_step)


def measure_benchmarks(
    benchmarks: Mapping[str, Task], trainer: L.Trainer, model: ClipModel, num_workers: int
) -> dict[str, float]:
    """Return ``eval/<benchmark>/<subset>``, ``eval_mean/<benchmark>/<mean>`` and ``eval_mean/overall``.

    Every rank calls this, and gets the same values.

    Args:
        benchmarks: name -> benchmark.
        trainer: of the run, for the ranks and the progress bar.
        model: is measured.
        num_workers: processes that decode images.
    """
    sharded = is_sharded(model)
    features = FeatureStore(
        Encoder(model),
        num_workers=num_workers,
        rank=0 if sharded else trainer.global_rank,
        world_size=1 if sharded else trainer.world_size,
        progress=False,
    )
    bar = trainer.progress_bar_callback
    with bar.describing("Evaluating") if isinstance(bar, ProgressBar) else nullcontext():
        results = run_benchmarks(benchmarks, features)
    metrics: dict[str, float] = {}
    averages = []
    for name, result in results.items():
        subsets, means = point_estimates(benchmarks[name], result.outcomes)
        metrics |= {f"eval/{name}/{subset}": value for subset, value in subsets.items()}
        metrics |= {f"eval_mean/{name}/{mean}": value for mean, value in means.items()}
        averages.append(means.get("average", float("nan")))  # a subset without any answer leaves no average
        if skipped := [problem for problem in result.problems if problem.skipped]:
            rank_zero_warn(
                f"benchmark.{name}: {len(skipped)} left out, the first is {skipped[0].row} ({skipped[0].reason})"
            )
    return metrics | {"eval_mean/overall": fmean(averages)}
