"""Callbacks and loggers of a training run: checkpoints, signals, throughput, images of batches, metrics on disk."""

from degla.training.callbacks.batch_images import BatchImages
from degla.training.callbacks.checkpoint import RunCheckpoint
from degla.training.callbacks.evaluate import Evaluate
from degla.training.callbacks.examples import BenchmarkExamples
from degla.training.callbacks.export_model import ExportModel
from degla.training.callbacks.memory import MemoryUse
from degla.training.callbacks.metrics_csv import MetricsCsv
from degla.training.callbacks.preemption import Preemption
from degla.training.callbacks.progress import ProgressBar
from degla.training.callbacks.retention import Retention
from degla.training.callbacks.text_only import TextOnlyBaseline
from degla.training.callbacks.throughput import Throughput
from degla.training.callbacks.watchdog import Watchdog

__all__ = [
    "BatchImages",
    "BenchmarkExamples",
    "Evaluate",
    "ExportModel",
    "MemoryUse",
    "MetricsCsv",
    "Preemption",
    "ProgressBar",
    "Retention",
    "RunCheckpoint",
    "TextOnlyBaseline",
    "Throughput",
    "Watchdog",
]
