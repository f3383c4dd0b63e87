"""What watches a run: checkpoints, throughput, pictures of batches, metrics on disk."""

from degla.callbacks.batch_images import BatchImages
from degla.callbacks.checkpoint import RunCheckpoint, newest_checkpoint, what_is_broken
from degla.callbacks.evaluate import Evaluate
from degla.callbacks.export import ExportModel
from degla.callbacks.metrics_csv import MetricsCsv, read_metrics
from degla.callbacks.preemption import Preemption
from degla.callbacks.progress import ProgressBar
from degla.callbacks.throughput import Throughput
from degla.callbacks.watchdog import Watchdog

__all__ = [
    "BatchImages",
    "Evaluate",
    "ExportModel",
    "MetricsCsv",
    "Preemption",
    "ProgressBar",
    "RunCheckpoint",
    "Throughput",
    "Watchdog",
    "newest_checkpoint",
    "read_metrics",
    "what_is_broken",
]
