"""Measuring a model: encode once, answer every item, summarise."""

from degla.evaluation.encoder import Encoder
from degla.evaluation.features import FeatureStore
from degla.evaluation.run import Result, evaluate, record
from degla.evaluation.statistics import point_estimates
from degla.evaluation.task import Task

__all__ = ["Encoder", "FeatureStore", "Result", "Task", "evaluate", "point_estimates", "record"]
