"""Benchmarks before the first step, every so many steps, and at the end."""

from collections.abc import Mapping
from statistics import fmean

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from degla.evaluation import Encoder, FeatureStore, Task, evaluate, point_estimates


class Evaluate(Callback):
    """Logs ``eval/<benchmark>/<subset>`` and ``eval_mean/<benchmark>/<mean>`` against optimizer steps.

    ``eval_mean/overall`` is the mean of the benchmarks' averages. Ranks share the work, but for FSDP2, where
    every rank must take part in every forward.

    Args:
        benchmarks: what is measured, by name.
        every_n_steps: optimizer steps between evaluations.
        num_workers: processes that decode images.
    """

    def __init__(self, benchmarks: Mapping[str, Task], every_n_steps: int = 500, num_workers: int = 0):
        self.benchmarks = benchmarks
        self.every_n_steps = every_n_steps
        self.num_workers = num_workers
        self._evaluated: int | None = None

    def state_dict(self) -> dict:
        """What was measured last."""
        return {"evaluated": self._evaluated}

    def load_state_dict(self, state_dict: dict) -> None:
        """Not to be measured again."""
        self._evaluated = state_dict["evaluated"]

    def on_train_start(self, trainer, pl_module) -> None:
        """The untouched student, or what a signal left unmeasured."""
        self._evaluate_if_due(trainer, pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Every so many steps; after a signal there may be no time."""
        if not trainer.received_sigterm:
            self._evaluate_if_due(trainer, pl_module)

    def on_train_end(self, trainer, pl_module) -> None:
        """The trained student."""
        if trainer.global_step != self._evaluated:
            self._evaluate(trainer, pl_module)

    def _evaluate_if_due(self, trainer, pl_module) -> None:
        if trainer.global_step % self.every_n_steps == 0 and trainer.global_step != self._evaluated:
            self._evaluate(trainer, pl_module)

    def _evaluate(self, trainer, pl_module) -> None:
        self._evaluated = trainer.global_step
        sharded = "ModelParallel" in type(trainer.strategy).__name__
        features = FeatureStore(
            Encoder(pl_module.student),
            num_workers=self.num_workers,
            rank=0 if sharded else trainer.global_rank,
            world_size=1 if sharded else trainer.world_size,
            progress=False,
        )
        results = evaluate(self.benchmarks, features)
        metrics, averages = {}, []
        for name, result in results.items():
            subsets, means = point_estimates(self.benchmarks[name], result.outcomes)
            metrics |= {f"eval/{name}/{subset}": value for subset, value in subsets.items()}
            metrics |= {f"eval_mean/{name}/{mean}": value for mean, value in means.items()}
            averages.append(means.get("average", float("nan")))  # a subset without any answer leaves no average
            if bad := [problem for problem in result.problems if problem.skipped]:
                rank_zero_warn(f"benchmark.{name}: {len(bad)} left out, the first is {bad[0].row} ({bad[0].reason})")
        metrics["eval_mean/overall"] = fmean(averages)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
