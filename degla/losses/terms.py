"""The terms of DeGLA, its released code, NegCLIP and CE-CLIP.

Each passes the features that it reads to a pure function of this package, by keyword.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from degla.errors import ConfigError
from degla.losses.ce_clip import cmr_loss, cmr_thresholds, imc_loss
from degla.losses.contrastive import contrastive_loss
from degla.losses.distillation import distillation_loss
from degla.losses.duplicates import check_duplicates, duplicates_of
from degla.losses.features import Features
from degla.losses.gather import sum_over_ranks
from degla.losses.local import igc_loss, tgc_loss
from degla.losses.released import released_distillation_loss, released_tgc_loss
from degla.losses.term import Term, choice_arguments, teacher_features

_NEGATIVES = frozenset({"negatives"})


class Contrastive(Term):
    """The global contrast between the images and captions of the whole batch.

    Args:
        weight: factor of the term in the total.
        negatives: which negative captions an image is also contrasted with: those of the whole ``batch`` (the released
            code), its ``own`` (equation 4 of the paper as printed), or ``none`` (plain CLIP).
        duplicates: another sample with the same image or the same caption is a negative (``off``), is left out of the
            softmax (``mask``), or is a further positive (``count``). The negative captions of such a sample stay.

    Raises:
        ConfigError: ``negatives`` or ``duplicates`` has another value.
    """

    gathers = True
    reads_all_parameters = True

    def __init__(
        self,
        weight: float = 1.0,
        negatives: Literal["batch", "own", "none"] = "batch",
        duplicates: Literal["off", "mask", "count"] = "off",
    ):
        if negatives not in ("batch", "own", "none"):
            raise ConfigError(f"objective.terms.contrastive.negatives={negatives} must be batch, own or none")
        treatment = check_duplicates("contrastive", duplicates)
        self.needs = frozenset() if negatives == "none" else _NEGATIVES
        if treatment != "off":
            self.needs |= {"identity"}
        super().__init__(weight)
        self.negatives = negatives
        self.duplicates = treatment

    def forward(self, student: Features, teacher: Features | None, rows: slice) -> Tensor:
        """Compute the term; see ``Term.forward`` and ``contrastive_loss``."""
        slots = 0 if self.negatives == "none" else student.negatives.shape[1]
        return contrastive_loss(
            image_features=student.image,
            text_features=student.text,
            negative_features=student.negatives[:, :slots],
            negative_mask=student.negative_mask[:, :slots],
            logit_scale=student.logit_scale,
            rows=rows,
            own_negatives=self.negatives == "own",
            duplicates=duplicates_of(student, self.duplicates),
        )


class IGC(Term):
    """The image-grounded contrast: an image against its own caption and its own negatives (``igc_loss``)."""

    needs = zero_without = _NEGATIVES

    def forward(self, student: Features, teacher: Features | None, rows: slice) -> Tensor:
        """Compute the term; see ``Term.forward``."""
        return igc_loss(
            **choice_arguments(student),
        )


class TGC(Term):
    """The text-grounded contrast: a caption against the teacher's embedding of it and its own negatives (``tgc_loss``).

    Args:
        weight: factor of the term in the total.
        scale: fixed multiplier of the cosines, 10 in the authors' code; ``learned`` is the model's logit scale
            (equation 9 of the paper).

    Raises:
        ConfigError: ``scale`` is neither ``learned`` nor a number above 0.
    """

    needs = _NEGATIVES | {"teacher"}
    zero_without = _NEGATIVES

    def __init__(self, weight: float = 0.1, scale: float | Literal["learned"] = 10.0):
        super().__init__(weight)
        if scale != "learned":
            _check_scale(scale)
        self.scale = scale

    def forward(self, student: Features, teacher: Features | None, rows: slice) -> Tensor:
        """Compute the term; see ``Term.forward``."""
        return tgc_loss(
            text_features=student.text,
            teacher_text_features=teacher_features(teacher).text,
            negative_features=student.negatives,
            negative_mask=student.negative_mask,
            scale=student.logit_scale if isinstance(self.scale, str) else self.scale,
        )


class Distillation(Term):
    """The squared distance to the teacher's embeddings, as a mean over samples (``distillation_loss``)."""

    needs = _NEGATIVES | {"teacher"}

    def forward(self, student: Features, teacher: Features | None, rows: slice) -> Tensor:
        """Compute the term; see ``Term.forward``."""
        teacher = teacher_features(teacher)
        return distillation_loss(
            image_features=student.image,
            text_features=student.text,
            negative_features=student.negatives,
            teacher_image_features=teacher.image,
            teacher_text_features=teacher.text,
            teacher_negative_features=teacher.negatives,
            negative_mask=student.negative_mask,
        )


class ReleasedTGC(Term):
    """TGC as the authors' released code computes it, with tiled negatives (``released_tgc_loss``).

    Args:
        weight: factor of the term in the total.
        scale: fixed multiplier of the cosines.

    Raises:
        ConfigError: ``scale`` is not a number above 0.
    """

    needs = frozenset({"unfiltered_negatives", "teacher"})
    zero_without = frozenset({"unfiltered_negatives"})
    gathers = True
    averages_samples = False  # the mean over all samples, in which negatives of all ranks are mixed

    def __init__(self, weight: float = 0.1, scale: float = 10.0):
        super().__init__(weight)
        self.scale = _check_scale(scale)

    def forward(self, student: Features, teacher: Features | None, rows: slice) -> Tensor:
        """Compute the term; see ``Term.forward``.

        Raises:
            ConfigError: some sample has fewer negatives than the others, which the released code does not support.
        """
        _refuse_ragged(student)
        return released_tgc_loss(
            text_features=student.text,
            teacher_text_features=teacher_features(teacher).text,
            negative_features=student.negatives,
            scale=self.scale,
        )


class ReleasedDistillation(Term):
    """Self-distillation as a sum over the global batch, as in the released code (``released_distillation_loss``)."""

    needs = frozenset({"unfiltered_negatives", "teacher"})
    gathers = True
    averages_samples = False  # the sum over all samples

    def forward(self, student: Features, teacher: Features | None, rows: slice) -> Tensor:
        """Compute the term; see ``Term.forward``.

        Raises:
            ConfigError: some sample has fewer negatives than the others, which the released code does not support.
        """
        _refuse_ragged(student)
        teacher = teacher_features(teacher)
        return released_distillation_loss(
            image_features=student.image,
            text_features=student.text,
            negative_features=student.negatives,
            teacher_image_features=teacher.image,
            teacher_text_features=teacher.text,
            teacher_negative_features=teacher.negatives,
        )


class IMC(Term):
    """CE-CLIP's intra-modal contrast: a caption against its image and all negative captions (``imc_loss``)."""

    needs = zero_without = _NEGATIVES
    gathers = True

    def forward(self, student: Features, teacher: Features | None, rows: slice) -> Tensor:
        """Compute the term; see ``Term.forward``."""
        return imc_loss(
            **choice_arguments(student),
            rows=rows,
        )


class CMR(Term):
    """CE-CLIP's cross-modal rank, a hinge with one adaptive threshold per slot of negatives (``cmr_loss``).

    The thresholds follow the statistics of the last step and are kept in the checkpoint.

    Args:
        weight: factor of the term in the total.
        num_negatives: slots of negatives, one threshold each.
        upper_bound: largest threshold.
        reset_each_pass: set the thresholds to 0 at the start of each pass over the data, as the authors' training
            script does. ``batches_per_pass`` must then be set.

    Raises:
        ConfigError: ``num_negatives`` or ``upper_bound`` is negative.
    """

    needs = zero_without = _NEGATIVES
    thresholds: Tensor  # (K,)

    num_batches: Tensor  # () int64, in training mode so far

    def __init__(
        self, weight: float = 0.2, num_negatives: int = 4, upper_bound: float = 10.0, reset_each_pass: bool = False
    ):
        super().__init__(weight)
        if num_negatives < 0:
            raise ConfigError(f"objective.terms.cmr.num_negatives={num_negatives} must be 0 or more")
        if not 0 <= upper_bound < math.inf:
            raise ConfigError(f"objective.terms.cmr.upper_bound={upper_bound} must be a number of 0 or more")
        self.upper_bound = upper_bound
        self.reset_each_pass = reset_each_pass
        self.register_buffer("thresholds", torch.zeros(num_negatives))
        if reset_each_pass:  # otherwise checkpoints are those of earlier releases
            self.register_buffer("num_batches", torch.zeros((), dtype=torch.int64))

    def forward(self, student: Features, teacher: Features | None, rows: slice) -> Tensor:
        """Compute the term as ``Term.forward`` says, and in training mode the thresholds of the next step."""
        if student.negatives.shape[1] != len(self.thresholds):
            raise ConfigError(
                f"objective.terms.cmr.num_negatives={len(self.thresholds)} must equal loader.num_negatives, which is "
                f"{student.negatives.shape[1]}: there is one threshold per slot"
            )
        if self.training and self.reset_each_pass:
            self._start_batch()
        loss = cmr_loss(
            **choice_arguments(student),
            thresholds=self.thresholds,
        )
        if self.training:
            self._update_thresholds(student)
        return loss

    def _start_batch(self) -> None:
        if self.batches_per_pass is None:
            raise ConfigError(
                "objective.terms.cmr.reset_each_pass=true needs data of known length: set it to false for a stream"
            )
        is_first = self.num_batches % self.batches_per_pass == 0
        self.thresholds = self.thresholds.masked_fill(is_first, 0)
        self.num_batches = self.num_batches + 1

    @torch.no_grad()
    def _update_thresholds(self, student: Features) -> None:
        statistics = cmr_thresholds(
            **choice_arguments(student),
        )
        sums, counts = (sum_over_ranks(part) for part in statistics)
        means = sums / counts.clamp(min=1)
        updated = (means[0] - means[1:]).clamp(0, self.upper_bound)
        # Out of place: the backward pass of this step still needs the thresholds it was computed with.
        self.thresholds = torch.where(counts[1:] > 0, updated.to(self.thresholds.dtype), self.thresholds)


def _check_scale(scale: float) -> float:
    if not 0 < scale < math.inf:
        raise ConfigError(f"objective.terms.tgc.scale={scale} must be a number above 0; the paper's is 10")
    return scale


def _refuse_ragged(student: Features) -> None:
    if not bool(student.negative_mask.all()):
        raise ConfigError(
            "objective=degla_released needs exactly loader.num_negatives negatives in every sample; "
            "use objective=degla for samples with fewer, or lower loader.num_negatives"
        )
