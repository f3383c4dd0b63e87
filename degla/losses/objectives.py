"""Objectives: weighted sums of the terms, which training minimises.

There is one class per set of terms. The weights come from the config. Terms are called with keywords, so that the order
of the fields of ``Features`` does not matter.
"""

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from degla.errors import ConfigError
from degla.losses.ce_clip import cmr_loss, cmr_thresholds, imc_loss
from degla.losses.contrastive import contrastive_loss
from degla.losses.distillation import distillation_loss
from degla.losses.features import Features, LossTerms
from degla.losses.gather import GlobalBatch, gather_features, global_batch, sum_over_ranks
from degla.losses.local import igc_loss, tgc_loss
from degla.losses.released import released_distillation_loss, released_tgc_loss


class _GlobalTerm(Protocol):
    """A loss term that contrasts each query with the whole global batch."""

    def __call__(
        self,
        *,
        image_features: Tensor,
        text_features: Tensor,
        negative_features: Tensor,
        negative_mask: Tensor,
        logit_scale: Tensor,
        rows: slice = ...,
    ) -> Tensor:
        """Return the mean over ``rows``, shape ``()``; see ``contrastive_loss`` for the arguments."""


class Objective(nn.Module):
    """Base class that weights and adds the terms that a subclass computes.

    Args:
        weights: name of a term -> its weight. A term of weight 0 is not computed.
        local_loss: each rank computes the logits of its own samples only. The result is the same; without it every rank
            computes all of them.

    Attributes:
        uses_teacher: whether some term of weight > 0 reads the teacher.
        uses_negatives: whether some term of weight > 0 reads negatives.

    Raises:
        ConfigError: a weight is negative or not finite.
    """

    uses_teacher = False
    uses_negatives = True

    def __init__(self, weights: dict[str, float], local_loss: bool = True):
        super().__init__()
        for name, weight in weights.items():
            if not 0 <= weight < math.inf:
                raise ConfigError(f"objective.{name}={weight} must be a number of 0 or more; 0 leaves the term out")
        self.weights = {name: weight for name, weight in weights.items() if weight != 0}
        self.local_loss = local_loss

    def forward(self, student: Features, teacher: Features | None = None) -> LossTerms:
        """Gather once over the ranks and add the weighted terms.

        Args:
            student: features with gradient, such as ``(B, D)`` images.
            teacher: the same batch encoded by the teacher, or None where ``uses_teacher`` is False.

        Returns:
            ``LossTerms``. Their mean over the ranks has the value and, because DDP averages gradients likewise, the
            gradient of one process that holds the whole batch.
        """
        terms = self.terms(student, teacher, global_batch(len(student.image)))
        zero = student.image.new_zeros(())
        total = sum((weight * terms[name] for name, weight in self.weights.items()), start=zero)
        return LossTerms(total=total, terms={name: term.detach() for name, term in terms.items()})

    def terms(self, student: Features, teacher: Features | None, batch: GlobalBatch) -> dict[str, Tensor]:
        """Compute the unweighted terms named in ``weights``.

        Args:
            student: features with gradient, such as ``(B, D)`` images.
            teacher: the same batch encoded by the teacher, or None where ``uses_teacher`` is False.
            batch: the sizes of all ranks' batches.

        Returns:
            Name -> ``()``.
        """
        raise NotImplementedError

    def _over_rows(self, term: _GlobalTerm, gathered: Features, batch: GlobalBatch) -> Tensor:
        """Compute a global term over this rank's samples, or over all of them without ``local_loss``."""
        rows, share = (batch.rows, batch.share) if self.local_loss else (slice(None), 1.0)
        return share * term(
            image_features=gathered.image,
            text_features=gathered.text,
            negative_features=gathered.negatives,
            negative_mask=gathered.negative_mask,
            logit_scale=gathered.logit_scale,
            rows=rows,
        )


class DeGLAObjective(Objective):
    """Global contrast, IGC, TGC and self-distillation; with some weights at 0 it is CLIP's or NegCLIP's objective.

    Args:
        contrastive: weight of the global contrastive loss.
        igc: weight of the image-grounded contrast.
        tgc: weight of the text-grounded contrast.
        distill: weight of the self-distillation (``batchmean``); 1.28 is the authors' 0.005 x 256.
        tgc_scale: fixed multiplier inside TGC.
        image_sees_negatives: whether negatives are columns of the contrastive loss (not so in plain CLIP).
        local_loss: see ``Objective``.

    Raises:
        ConfigError: a weight is negative, or ``tgc_scale`` is not above 0.
    """

    def __init__(
        self,
        contrastive: float = 1.0,
        igc: float = 0.1,
        tgc: float = 0.1,
        distill: float = 1.28,
        tgc_scale: float = 10.0,
        image_sees_negatives: bool = True,
        local_loss: bool = True,
    ):
        super().__init__({"contrastive": contrastive, "igc": igc, "tgc": tgc, "distill": distill}, local_loss)
        self.tgc_scale = _checked_scale(tgc_scale)
        self.image_sees_negatives = image_sees_negatives
        self.uses_teacher = bool(tgc or distill)
        self.uses_negatives = bool(igc or tgc or distill or (contrastive and image_sees_negatives))

    def terms(self, student: Features, teacher: Features | None, batch: GlobalBatch) -> dict[str, Tensor]:
        """Compute the terms; see ``Objective.terms``."""
        terms = {}
        if "contrastive" in self.weights:
            columns = student if self.image_sees_negatives else _without_negatives(student)
            terms["contrastive"] = self._over_rows(contrastive_loss, gather_features(columns, batch), batch)
        if "igc" in self.weights:
            terms["igc"] = batch.share * igc_loss(
                image_features=student.image,
                text_features=student.text,
                negative_features=student.negatives,
                negative_mask=student.negative_mask,
                logit_scale=student.logit_scale,
            )
        if "tgc" in self.weights:
            terms["tgc"] = batch.share * tgc_loss(
                text_features=student.text,
                teacher_text_features=_required(teacher).text,
                negative_features=student.negatives,
                negative_mask=student.negative_mask,
                scale=self.tgc_scale,
            )
        if "distill" in self.weights:
            terms["distill"] = batch.share * distillation_loss(
                image_features=student.image,
                text_features=student.text,
                negative_features=student.negatives,
                teacher_image_features=_required(teacher).image,
                teacher_text_features=_required(teacher).text,
                teacher_negative_features=_required(teacher).negatives,
                negative_mask=student.negative_mask,
            )
        return terms


class ReleasedObjective(Objective):
    """The arithmetic of the authors' released code, with tiled TGC and summed distillation.

    Args:
        contrastive: weight of the global contrastive loss.
        igc: weight of the image-grounded contrast.
        tgc: weight of the tiled text-grounded contrast.
        distill: weight of the summed self-distillation; it grows with the global batch.
        tgc_scale: fixed multiplier inside TGC.

    Raises:
        ConfigError: a weight is negative, or ``tgc_scale`` is not above 0.
    """

    def __init__(
        self,
        contrastive: float = 1.0,
        igc: float = 0.1,
        tgc: float = 0.1,
        distill: float = 0.005,
        tgc_scale: float = 10.0,
    ):
        # The released code fails with local_loss, because its labels and its logits then have different sizes.
        super().__init__({"contrastive": contrastive, "tgc": tgc, "igc": igc, "distill": distill}, local_loss=False)
        self.tgc_scale = _checked_scale(tgc_scale)
        self.uses_teacher = bool(tgc or distill)

    def terms(self, student: Features, teacher: Features | None, batch: GlobalBatch) -> dict[str, Tensor]:
        """Compute the terms; see ``Objective.terms``.

        Raises:
            ConfigError: some sample has fewer negatives than the others, which the released code does not support.
        """
        if not bool(student.negative_mask.all()):
            raise ConfigError(
                "objective=degla_released needs exactly loader.num_negatives negatives in every sample; "
                "use objective=degla for samples with fewer, or lower loader.num_negatives"
            )
        student = gather_features(student, batch)
        terms = {}
        if "contrastive" in self.weights:
            terms["contrastive"] = self._over_rows(contrastive_loss, student, batch)
        if "igc" in self.weights:
            terms["igc"] = igc_loss(
                image_features=student.image,
                text_features=student.text,
                negative_features=student.negatives,
                negative_mask=student.negative_mask,
                logit_scale=student.logit_scale,
            )
        if self.uses_teacher:
            teacher = gather_features(_required(teacher), batch)
        if "tgc" in self.weights:
            terms["tgc"] = released_tgc_loss(
                text_features=student.text,
                teacher_text_features=_required(teacher).text,
                negative_features=student.negatives,
                scale=self.tgc_scale,
            )
        if "distill" in self.weights:
            terms["distill"] = released_distillation_loss(
                image_features=student.image,
                text_features=student.text,
                negative_features=student.negatives,
                teacher_image_features=_required(teacher).image,
                teacher_text_features=_required(teacher).text,
                teacher_negative_features=_required(teacher).negatives,
            )
        return terms


class CEClipObjective(Objective):
    """CE-CLIP's objective: global contrast with negatives, intra-modal contrast, cross-modal rank.

    The thresholds of the rank term follow the statistics of the last step and are kept in the checkpoint.

    Args:
        contrastive: weight of the global contrastive loss.
        imc: weight of the intra-modal contrast.
        cmr: weight of the cross-modal rank.
        num_negatives: slots of negatives, one threshold each.
        upper_bound: largest threshold.
        local_loss: see ``Objective``.

    Raises:
        ConfigError: a weight, ``num_negatives`` or ``upper_bound`` is negative.
    """

    thresholds: Tensor  # (K,)

    def __init__(
        self,
        contrastive: float = 1.0,
        imc: float = 0.3,
        cmr: float = 0.2,
        num_negatives: int = 4,
        upper_bound: float = 10.0,
        local_loss: bool = True,
    ):
        super().__init__({"contrastive": contrastive, "imc": imc, "cmr": cmr}, local_loss)
        if num_negatives < 0:
            raise ConfigError(f"objective.num_negatives={num_negatives} must be 0 or more")
        if not 0 <= upper_bound < math.inf:
            raise ConfigError(f"objective.upper_bound={upper_bound} must be a number of 0 or more")
        self.upper_bound = upper_bound
        self.register_buffer("thresholds", torch.zeros(num_negatives))

    def terms(self, student: Features, teacher: Features | None, batch: GlobalBatch) -> dict[str, Tensor]:
        """Compute the terms as ``Objective.terms`` says, and in training mode the thresholds of the next step."""
        gathered = gather_features(student, batch)
        terms = {}
        if "contrastive" in self.weights:
            terms["contrastive"] = self._over_rows(contrastive_loss, gathered, batch)
        if "imc" in self.weights:
            terms["imc"] = self._over_rows(imc_loss, gathered, batch)
        if "cmr" in self.weights:
            if student.negatives.shape[1] != len(self.thresholds):
                raise ConfigError(
                    f"objective.num_negatives={len(self.thresholds)} must equal loader.num_negatives, which is "
                    f"{student.negatives.shape[1]}: there is one threshold per slot"
                )
            terms["cmr"] = batch.share * cmr_loss(
                image_features=student.image,
                text_features=student.text,
                negative_features=student.negatives,
                negative_mask=student.negative_mask,
                logit_scale=student.logit_scale,
                thresholds=self.thresholds,
            )
            if self.training:
                self._update_thresholds(student)
        return terms

    @torch.no_grad()
    def _update_thresholds(self, student: Features) -> None:
        statistics = cmr_thresholds(
            image_features=student.image,
            text_features=student.text,
            negative_features=student.negatives,
            negative_mask=student.negative_mask,
            logit_scale=student.logit_scale,
        )
        sums, counts = (sum_over_ranks(part) for part in statistics)
        means = sums / counts.clamp(min=1)
        updated = (means[0] - means[1:]).clamp(0, self.upper_bound)
        # Out of place: the backward pass of this step still needs the thresholds it was computed with.
        self.thresholds = torch.where(counts[1:] > 0, updated.to(self.thresholds.dtype), self.thresholds)


def _checked_scale(tgc_scale: float) -> float:
    if not 0 < tgc_scale < math.inf:
        raise ConfigError(f"objective.tgc_scale={tgc_scale} must be a number above 0; the paper's is 10")
    return tgc_scale


def _required(teacher: Features | None) -> Features:
    if teacher is None:
        raise ValueError("this objective needs the teacher's features, but none were given")
    return teacher


def _without_negatives(features: Features) -> Features:
    return features._replace(negatives=features.negatives[:, :0], negative_mask=features.negative_mask[:, :0])
