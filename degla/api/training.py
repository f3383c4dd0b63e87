"""``degla.finetune``: one training run from Python."""

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets

from degla.api.model import Model, load
from degla.api.spec import model_values
from degla.artifacts import read_metrics
from degla.cli.compose import compose_config
from degla.cli.keys import options_of
from degla.errors import ConfigError, DeglaError
from degla.train import run_training
from degla.training.console import quiet_lightning

_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Args:
        folder: the run's folder, with its config, checkpoints, metrics and report.
        value: what a sweep would maximise: ``eval_mean/overall`` where a benchmark was set, else the last
            ``val/caption_choice``; nan where the run has neither.
    """

    folder: Path
    value: float

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.folder / "report.html"

    @cached_property
    def history(self) -> dict[str, dict[int, float]]:
        """Every metric: name -> optimizer step -> value."""
        path = self.folder / "metrics.csv"
        return read_metrics(path) if path.exists() else {}

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of every metric."""
        return {name: values[max(values)] for name, values in self.history.items()}

    @cached_property
    def model(self) -> Model:
        """The trained model, loaded when it is first asked for."""
        return load(self.folder)


def finetune(
    data: str | Path | Mapping[str, Any] | None = None,
    model: str | Path | Mapping[str, Any] | None = None,
    objective: str | Mapping[str, Any] | None = None,
    benchmark: str | Sequence[str] | None = None,
    **overrides: Any,
) -> Run:
    """Fine-tune a model in this process, as ``degla-train`` does.

    ::

        run = degla.finetune("photos", model="ViT-B-32/openai", objective="degla", optimizer={"lr": 1e-6})
        run.metrics["val/caption_choice"], run.report, run.model.score("cat.jpg", ["a cat", "a dog"])

    Args:
        data: a folder with one file of captions, that file itself, or an option of ``configs/data`` such as
            ``scenes``. A mapping sets keys of ``data``, with ``option`` for the option.
        model: what ``degla.load`` takes, or a mapping of keys of ``model``.
        objective: an option of ``configs/objective``, or a mapping of its weights.
        benchmark: options of ``configs/benchmark`` to measure before, during and after the run.
        **overrides: any other key of ``configs/train.yaml``: ``teacher="frozen"``, ``loader={"epochs": 1}``,
            ``experiment="demo"``, ``ckpt_path="last"``, ``**{"trainer.max_steps": 100}``.

    Raises:
        DeglaError: the settings, the data or the machine do not allow the run, or a signal stopped it.
        KeyboardInterrupt: Ctrl-C stopped it; ``ckpt_path="last"`` resumes it.
    """
    values = dict(overrides)
    if data is not None:
        values["data"] = data if isinstance(data, Mapping) else _data_values(data)
    if model is not None:
        values["model"] = model if isinstance(model, Mapping) else model_values(model)
    values |= {key: value for key, value in (("objective", objective), ("benchmark", benchmark)) if value is not None}
    cfg = compose_config("train", values)
    if "WORLD_SIZE" not in os.environ:
        # Lightning would start further processes by running the caller's script, or notebook, once more.
        if cfg.trainer.devices == "auto":
            cfg.trainer.devices = 1
        elif str(cfg.trainer.devices) not in ("1", "[0]"):
            raise ConfigError(
                f"trainer.devices={cfg.trainer.devices}: degla.finetune runs in one process; use degla-train, or start "
                "the script by torchrun"
            )
    try:
        with _handlers_restored():
            quiet_lightning()
            value = run_training(cfg)
    except SystemExit as stop:
        if stop.code == 128 + signal.SIGINT:
            raise KeyboardInterrupt(f"the run is saved in {cfg.run_dir}; ckpt_path='last' resumes it") from None
        raise DeglaError(f"a signal stopped the run in {cfg.run_dir}: ckpt_path='last' resumes it") from stop
    return Run(Path(cfg.run_dir), value)


@contextmanager
def _handlers_restored() -> Iterator[None]:
    """Leave loggers, signals, warnings and progress bars as they were before the block."""
    existing = [item for item in logging.root.manager.loggerDict.values() if isinstance(item, logging.Logger)]
    loggers = [(item, item.handlers[:], item.filters[:], item.level) for item in (logging.root, *existing)]
    signals = {number: signal.getsignal(number) for number in _SIGNALS}
    had_bars = not datasets.are_progress_bars_disabled()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        if threading.current_thread() is threading.main_thread():  # other threads cannot change them
            for number, handler in signals.items():
                signal.signal(number, handler)  # a run that a signal stopped leaves its own
        for logger, handlers, filters, level in loggers:
            logger.handlers[:], logger.filters[:] = handlers, filters
            logger.setLevel(level)
        if had_bars:
            datasets.enable_progress_bars()


def _data_values(data: str | Path) -> dict[str, Any]:
    path = Path(data).expanduser()
    if path.is_dir():
        return {"option": "folder", "path": str(path)}
    if path.is_file():
        return {"option": "folder", "path": str(path.parent), "annotations": path.name}
    if str(data) in options_of("data"):
        return {"option": str(data)}
    raise ConfigError(
        f"data={data} is not a folder, a file or an option: set it to a folder with a file of captions, or to one of "
        f"{', '.join(options_of('data'))}"
    )
