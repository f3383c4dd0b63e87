"""Loggers: TensorBoard, Weights & Biases and MLflow, with the same numbers, settings, images and captions in each.

``metrics.csv`` is written beside them in every run (``degla.training.callbacks.MetricsCsv``).
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard.summary import hparams

from degla.errors import MissingDependencyError
from degla.objective_terms import term_weights

# Columns of TensorBoard's HPARAMS tab; a run that does not log one of them leaves it empty.
_HPARAMS_METRICS = (
    "train/loss",
    "val/caption_choice",
    "val/image_to_text_r@1",
    "val/text_to_image_r@1",
    "eval_mean/overall",
)

# Settings that are worth comparing between runs: the name shown -> the config key.
_MAIN_SETTINGS = {
    "model": "model.name",
    "pretrained": "model.pretrained",
    "data": "data.path",
    "global_batch_size": "loader.global_batch_size",
    "epochs": "loader.epochs",
    "max_steps": "trainer.max_steps",
    "num_negatives": "loader.num_negatives",
    "lr": "optimizer.lr",
    "weight_decay": "optimizer.weight_decay",
    "warmup_steps": "scheduler.warmup_steps",
    "teacher_decay": "teacher.decay",
    "adapter_rank": "adapter.rank",
    "precision": "precision",
    "seed": "seed",
}


def main_settings(config: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Return the about 15 settings that runs are compared by, weights of the objective included.

    Args:
        config: the nested plain config of a run; settings that it lacks, and null, are left out.
    """
    settings = {name: _value(config, key) for name, key in _MAIN_SETTINGS.items()}
    for name, weight in term_weights(config.get("objective") or {}).items():
        settings[f"objective.{name}"] = weight
    return {name: value for name, value in settings.items() if isinstance(value, str | int | float)}


def _value(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


@runtime_checkable
class ShowsSamples(Protocol):
    """A logger that can show samples of a training batch."""

    def log_samples(self, panels: Sequence[np.ndarray], table: str, step: int) -> None:
        """Show a panel per sample, and a table of all texts.

        Args:
            panels: ``(H, W, 3)`` uint8, each with an image, its caption, its negatives and their scores.
            table: the same texts and scores in Markdown.
            step: optimizer step.
        """


class _WithoutEpoch:
    """Drops the metric ``epoch``, which Lightning adds and which is 0 throughout: one epoch is the whole run."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log all metrics but ``epoch``."""
        kept = {name: value for name, value in metrics.items() if name != "epoch"}
        if kept:
            super().log_metrics(kept, step)  # type: ignore[misc]  # of the logger beside this mix-in


class TensorBoard(_WithoutEpoch, TensorBoardLogger):
    """TensorBoard with a filled HPARAMS tab.

    Args:
        save_dir: folder of the run.
        version: name of the folder below it.
    """

    def __init__(self, save_dir: str, version: str = "tensorboard"):
        super().__init__(save_dir=save_dir, name="", version=version, default_hp_metric=False)

    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: dict[str, Any] | None = None, step: int | None = None) -> None:
        """Show settings in the HPARAMS tab.

        Lightning's own method writes nothing there without a value of a metric, which would also appear as a scalar.

        Args:
            params: name -> plain value.
            metrics: not used; the columns are those of ``_HPARAMS_METRICS``.
            step: not used.
        """
        super().log_hyperparams(params)
        for summary in hparams(dict(params), dict.fromkeys(_HPARAMS_METRICS, 0.0)):
            self.experiment.file_writer.add_summary(summary)

    @rank_zero_only
    def log_samples(self, panels: Sequence[np.ndarray], table: str, step: int) -> None:
        """See ``ShowsSamples``."""
        for number, panel in enumerate(panels):  # a tag for each, so that TensorBoard shows it over time
            self.experiment.add_image(f"samples/{number}", panel, step, dataformats="HWC")
        self.experiment.add_text("samples/texts", table, step)


class Wandb(_WithoutEpoch, WandbLogger):
    """Weights & Biases; one of its runs for each run folder, which a resumed run continues.

    Args:
        save_dir: folder of the run.
        project: name of the project.
        name: name of the run; null is the name of the run folder.
        offline: write to the run folder only; ``wandb sync`` uploads it later.

    Raises:
        MissingDependencyError: wandb is not installed.
    """

    def __init__(self, save_dir: str, project: str = "degla", name: str | None = None, offline: bool = False):
        folder = Path(save_dir).resolve()
        try:
            super().__init__(
                save_dir=save_dir,
                project=project,
                name=name or folder.name,
                offline=offline,
                id=hashlib.sha256(str(folder).encode()).hexdigest()[:16],
                resume="allow",
            )
        except ModuleNotFoundError as error:
            raise MissingDependencyError.for_extra("logger=wandb needs wandb", "wandb") from error

    @property
    def experiment(self) -> Any:
        """Return W&B's run, and create its folder first: W&B writes to the temporary folder where it is missing."""
        if self.save_dir:
            Path(self.save_dir).mkdir(parents=True, exist_ok=True)
        return super().experiment

    @rank_zero_only
    def close(self) -> None:
        """End W&B's run; otherwise the next job of a sweep in this process would continue it."""
        if self._experiment is not None:
            self._experiment.finish()

    @rank_zero_only
    def log_samples(self, panels: Sequence[np.ndarray], table: str, step: int) -> None:
        """See ``ShowsSamples``."""
        for number, panel in enumerate(panels):
            self.log_image(f"samples/{number}", [panel], step=step)
        self.log_text("samples/texts", columns=["table"], data=[[table]], step=step)


class Mlflow(_WithoutEpoch, MLFlowLogger):
    """MLflow; one of its runs for each run folder, which a resumed run continues.

    Args:
        save_dir: folder of the run.
        experiment_name: name of the experiment.
        run_name: name of the run; null is the name of the run folder.
        tracking_uri: address of the server; null takes ``MLFLOW_TRACKING_URI``, or else a database in ``save_dir``.

    Raises:
        MissingDependencyError: mlflow is not installed.
    """

    def __init__(
        self,
        save_dir: str,
        experiment_name: str = "degla",
        run_name: str | None = None,
        tracking_uri: str | None = None,
    ):
        folder = Path(save_dir).resolve()
        self._run_id_file = folder / "mlflow_run_id"
        self._is_continued = self._run_id_file.is_file()
        try:
            super().__init__(
                experiment_name=experiment_name,
                run_name=run_name or folder.name,
                tracking_uri=tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder}/mlflow.db",
                artifact_location=None if tracking_uri else (folder / "mlflow").as_uri(),
                run_id=self._run_id_file.read_text().strip() if self._is_continued else None,
            )
        except ModuleNotFoundError as error:
            raise MissingDependencyError.for_extra("logger=mlflow needs mlflow", "mlflow") from error

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Log settings once; MLflow refuses other values for a run that it knows."""
        if not self._is_continued:
            super().log_hyperparams(params)
            self._run_id_file.write_text(str(self.run_id))
            self._is_continued = True

    @rank_zero_only
    def log_samples(self, panels: Sequence[np.ndarray], table: str, step: int) -> None:
        """See ``ShowsSamples``."""
        for number, panel in enumerate(panels):
            self.experiment.log_image(self.run_id, panel, f"samples/step-{step:08d}-sample-{number}.png")
        self.experiment.log_text(self.run_id, table, f"samples/step-{step:08d}-texts.md")
