"""A benchmark before the first step, every so many steps, and at the end."""

from typing import Protocol

from lightning.pytorch.callbacks import Callback

from degla.evaluation import Encoder


class Benchmark(Protocol):
    """What can be measured during a run; ``degla.evaluation.ScenesBenchmark`` is one."""

    def evaluate(self, encoder: Encoder) -> dict:
        """Name of a sub-task -> score."""

    def summary(self, scores: dict) -> dict[str, float]:
        """Means over sub-tasks."""


class Evaluate(Callback):
    """Logs ``eval/<benchmark>/<sub-task>`` and ``eval/<mean>`` against the number of optimizer steps.

    Every process evaluates all of it, which FSDP2 needs; rank 0 logs.

    Args:
        benchmark: what is measured.
        every_n_steps: optimizer steps between evaluations.

    Attributes:
        means: of the newest evaluation.
    """

    def __init__(self, benchmark: Benchmark, every_n_steps: int = 500):
        self.benchmark = benchmark
        self.every_n_steps = every_n_steps
        self.means: dict[str, float] = {}
        self._evaluated: int | None = None

    def on_train_start(self, trainer, pl_module) -> None:
        """The untouched student."""
        if trainer.global_step == 0:
            self._evaluate(trainer, pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Every so many steps."""
        if trainer.global_step % self.every_n_steps == 0 and trainer.global_step != self._evaluated:
            self._evaluate(trainer, pl_module)

    def on_train_end(self, trainer, pl_module) -> None:
        """The trained student."""
        if trainer.global_step != self._evaluated:
            self._evaluate(trainer, pl_module)

    def _evaluate(self, trainer, pl_module) -> None:
        self._evaluated = trainer.global_step
        scores = self.benchmark.evaluate(Encoder(pl_module.student))
        self.means = self.benchmark.summary(scores)
        metrics = {name: score.accuracy for name, score in scores.items()} | self.means
        for logger in trainer.loggers:
            logger.log_metrics({f"eval/{name}": value for name, value in metrics.items()}, step=trainer.global_step)
