"""Measuring a model: encode, score, summarise."""

from degla.evaluation.encoder import Encoder
from degla.evaluation.scoring import Score, choice_score, zero_shot_score
from degla.evaluation.tasks.scenes import ScenesBenchmark

__all__ = ["Encoder", "ScenesBenchmark", "Score", "choice_score", "zero_shot_score"]
