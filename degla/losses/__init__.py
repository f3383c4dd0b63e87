"""The terms of DeGLA and of the methods it is compared with: pure functions on tensors.

Shapes: B rows of a batch, N rows of the batch over all ranks, K negatives a row, D embedding size.
Features have unit norm. ``negative_mask`` is True where a negative exists. ``logit_scale`` is the
multiplier itself (already exponentiated).
"""

from degla.losses.ce_clip import cmr_loss, cmr_thresholds, imc_loss
from degla.losses.contrastive import contrastive_loss
from degla.losses.distillation import distillation_loss
from degla.losses.features import Features, LossTerms
from degla.losses.local import igc_loss, tgc_loss
from degla.losses.objectives import CEClipObjective, DeGLAObjective, Objective, ReleasedObjective
from degla.losses.released import released_distillation_loss, released_tgc_loss

__all__ = [
    "CEClipObjective",
    "DeGLAObjective",
    "Features",
    "LossTerms",
    "Objective",
    "ReleasedObjective",
    "cmr_loss",
    "cmr_thresholds",
    "contrastive_loss",
    "distillation_loss",
    "igc_loss",
    "imc_loss",
    "released_distillation_loss",
    "released_tgc_loss",
    "tgc_loss",
]
