"""The loss terms of DeGLA and of the methods that it is compared with, as pure functions on tensors.

Shapes: B samples in a rank's batch, N samples in the batch over all ranks, K negatives per sample, D embedding size.
Features have unit norm. ``negative_mask`` is True where a negative exists. ``logit_scale`` is the multiplier itself,
already exponentiated.
"""

from degla.losses.caption_views import caption_agreement_loss, paraphrase_loss, unit_contrast_loss
from degla.losses.ce_clip import cmr_loss, cmr_thresholds, imc_loss
from degla.losses.contrastive import contrastive_loss
from degla.losses.cross_entropy import Duplicates
from degla.losses.distillation import distillation_loss
from degla.losses.features import Features, LossTerms
from degla.losses.focal import focal_negative_loss, token_negative_loss
from degla.losses.local import igc_loss, tgc_loss
from degla.losses.negative_images import con_clip_loss, triplet_clip_loss
from degla.losses.objective import Objective
from degla.losses.peer_terms import (
    CaptionAgreement,
    ConClip,
    FocalNegative,
    Paraphrase,
    Sigmoid,
    TokenNegative,
    TripletClip,
    UnitContrast,
)
from degla.losses.released import released_distillation_loss, released_tgc_loss
from degla.losses.sigmoid import sigmoid_loss
from degla.losses.term import Term
from degla.losses.terms import CMR, IGC, IMC, TGC, Contrastive, Distillation, ReleasedDistillation, ReleasedTGC

__all__ = [
    "CMR",
    "IGC",
    "IMC",
    "TGC",
    "CaptionAgreement",
    "ConClip",
    "Contrastive",
    "Distillation",
    "Duplicates",
    "Features",
    "FocalNegative",
    "LossTerms",
    "Objective",
    "Paraphrase",
    "ReleasedDistillation",
    "ReleasedTGC",
    "Sigmoid",
    "Term",
    "TokenNegative",
    "TripletClip",
    "UnitContrast",
    "caption_agreement_loss",
    "cmr_loss",
    "cmr_thresholds",
    "con_clip_loss",
    "contrastive_loss",
    "distillation_loss",
    "focal_negative_loss",
    "igc_loss",
    "imc_loss",
    "paraphrase_loss",
    "released_distillation_loss",
    "released_tgc_loss",
    "sigmoid_loss",
    "tgc_loss",
    "token_negative_loss",
    "triplet_clip_loss",
    "unit_contrast_loss",
]
