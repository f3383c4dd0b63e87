"""What watches a run: checkpoints, throughput, pictures of batches, metrics on disk."""

from degla.callbacks.batch_images import BatchImages
from degla.callbacks.checkpoint import RunCheckpoint, newest_checkpoint
from degla.callbacks.evaluate import Evaluate
from degla.callbacks.export import ExportModel
from degla.callbacks.metrics_csv import MetricsCsv, read_metrics
from degla.callbacks.progress import ProgressBar
from degla.callbacks.throughput import Throughput

__all__ = [
    "BatchImages",
    "Evaluate",
    "ExportModel",
    "MetricsCsv",
    "ProgressBar",
    "RunCheckpoint",
    "Throughput",
    "newest_checkpoint",
    "read_metrics",
]
