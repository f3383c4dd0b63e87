"""Evaluation of a model: encode everything once, answer every item, summarize."""

from degla.evaluation.encoder import Encoder
from degla.evaluation.features import FeatureStore
from degla.evaluation.run import Result, benchmark_records, run_benchmarks
from degla.evaluation.statistics import point_estimates
from degla.evaluation.task import Task

__all__ = ["Encoder", "FeatureStore", "Result", "Task", "benchmark_records", "point_estimates", "run_benchmarks"]
