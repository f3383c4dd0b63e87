"""Weighted sums of the terms: what is minimised. One class for each shape of sum, weights by config."""

import torch
from torch import Tensor, nn

from degla.losses.ce_clip import cmr_loss, cmr_thresholds, imc_loss
from degla.losses.contrastive import contrastive_loss
from degla.losses.distillation import distillation_loss
from degla.losses.features import Features, LossTerms
from degla.losses.gather import GlobalBatch, gather_features, global_batch, sum_over_ranks
from degla.losses.local import igc_loss, tgc_loss
from degla.losses.released import released_distillation_loss, released_tgc_loss


class Objective(nn.Module):
    """Base: weighs the terms that a subclass computes.

    Args:
        weights: name of a term -> its weight. A term of weight 0 is not computed.
        local_loss: each rank builds the logits of its own rows only. The result is the same; without it
            every rank builds all of them.

    Attributes:
        uses_teacher: whether some term of weight > 0 reads the teacher.
        uses_negatives: whether some term of weight > 0 reads negatives.
    """

    uses_teacher = False
    uses_negatives = True

    def __init__(self, weights: dict[str, float], local_loss: bool = True):
        super().__init__()
        self.weights = {name: weight for name, weight in weights.items() if weight != 0}
        self.local_loss = local_loss

    def forward(self, student: Features, teacher: Features | None = None) -> LossTerms:
        """Gather once over the ranks and add the weighted terms.

        Args:
            student: features with gradient.
            teacher: the same batch through the teacher, or None where ``uses_teacher`` is False.

        Returns:
            ``LossTerms``; averaging them over ranks (as DDP averages gradients) gives the value and the
            gradient of one process that holds the whole batch.
        """
        terms = self.terms(student, teacher, global_batch(len(student.image)))
        total = sum(weight * terms[name] for name, weight in self.weights.items())
        return LossTerms(total, {name: term.detach() for name, term in terms.items()})

    def terms(self, student: Features, teacher: Features | None, batch: GlobalBatch) -> dict[str, Tensor]:
        """Compute the unweighted terms named in ``weights``."""
        raise NotImplementedError

    def _over_rows(self, loss, gathered: Features, batch: GlobalBatch) -> Tensor:
        """A term with global columns: over this rank's rows, or over all of them without ``local_loss``."""
        if self.local_loss:
            return loss(*gathered, rows=batch.rows) * batch.share
        return loss(*gathered)


class DeGLAObjective(Objective):
    """Global contrast, IGC, TGC and self-distillation; with fewer weights also CLIP and NegCLIP.

    Args:
        contrastive: weight of the global contrastive loss.
        igc: weight of the image-grounded contrast.
        tgc: weight of the text-grounded contrast.
        distill: weight of the self-distillation (``batchmean``); 1.28 is the authors' 0.005 x 256.
        tgc_scale: fixed multiplier inside TGC.
        image_sees_negatives: whether negatives are columns of the contrastive loss (not so in plain CLIP).
        local_loss: see ``Objective``.
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
        self.tgc_scale = tgc_scale
        self.image_sees_negatives = image_sees_negatives
        self.uses_teacher = bool(tgc or distill)
        self.uses_negatives = bool(igc or tgc or distill or (contrastive and image_sees_negatives))

    def terms(self, student, teacher, batch):
        """See ``Objective.terms``."""
        terms = {}
        if "contrastive" in self.weights:
            columns = student if self.image_sees_negatives else _without_negatives(student)
            terms["contrastive"] = self._over_rows(contrastive_loss, gather_features(columns, batch), batch)
        if "igc" in self.weights:
            terms["igc"] = igc_loss(*student) * batch.share
        if "tgc" in self.weights:
            terms["tgc"] = batch.share * tgc_loss(
                student.text, teacher.text, student.negatives, student.negative_mask, scale=self.tgc_scale
            )
        if "distill" in self.weights:
            terms["distill"] = batch.share * distillation_loss(*student[:3], *teacher[:3], student.negative_mask)
        return terms


class ReleasedObjective(Objective):
    """The arithmetic of the authors' released code: tiled TGC, summed distillation.

    Args:
        contrastive: weight of the global contrastive loss.
        igc: weight of the image-grounded contrast.
        tgc: weight of the tiled text-grounded contrast.
        distill: weight of the summed self-distillation; it grows with the global batch.
        tgc_scale: fixed multiplier inside TGC.
    """

    def __init__(
        self,
        contrastive: float = 1.0,
        igc: float = 0.1,
        tgc: float = 0.1,
        distill: float = 0.005,
        tgc_scale: float = 10.0,
    ):
        # The released code does not run with local_loss: its labels and its logits disagree.
        super().__init__({"contrastive": contrastive, "tgc": tgc, "igc": igc, "distill": distill}, False)
        self.tgc_scale = tgc_scale
        self.uses_teacher = bool(tgc or distill)

    def terms(self, student, teacher, batch):
        """See ``Objective.terms``.

        Raises:
            ValueError: some row has fewer negatives than the others; the released code knows no such rows.
        """
        if not bool(student.negative_mask.all()):
            raise ValueError(
                "objective=degla_released needs exactly loader.num_negatives negatives in every row; "
                "use objective=degla for rows with fewer, or lower loader.num_negatives"
            )
        student = gather_features(student, batch)
        terms = {}
        if "contrastive" in self.weights:
            terms["contrastive"] = contrastive_loss(*student)
        if "igc" in self.weights:
            terms["igc"] = igc_loss(*student)
        if self.uses_teacher:
            teacher = gather_features(teacher, batch)
        if "tgc" in self.weights:
            terms["tgc"] = released_tgc_loss(student.text, teacher.text, student.negatives, self.tgc_scale)
        if "distill" in self.weights:
            terms["distill"] = released_distillation_loss(*student[:3], *teacher[:3])
        return terms


class CEClipObjective(Objective):
    """CE-CLIP: global contrast with negatives, intra-modal contrast, cross-modal rank.

    The thresholds of the rank term follow the last step's statistics and are kept in the checkpoint.

    Args:
        contrastive: weight of the global contrastive loss.
        imc: weight of the intra-modal contrast.
        cmr: weight of the cross-modal rank.
        num_negatives: slots of negatives, one threshold each.
        upper_bound: largest threshold.
        local_loss: see ``Objective``.
    """

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
        self.upper_bound = upper_bound
        self.register_buffer("thresholds", torch.zeros(num_negatives))

    def terms(self, student, teacher, batch):
        """See ``Objective.terms``."""
        gathered = gather_features(student, batch)
        terms = {}
        if "contrastive" in self.weights:
            terms["contrastive"] = self._over_rows(contrastive_loss, gathered, batch)
        if "imc" in self.weights:
            terms["imc"] = self._over_rows(imc_loss, gathered, batch)
        if "cmr" in self.weights:
            terms["cmr"] = cmr_loss(*student, self.thresholds) * batch.share
            if self.training:
                self._update_thresholds(student)
        return terms

    @torch.no_grad()
    def _update_thresholds(self, student: Features) -> None:
        sums, counts = (sum_over_ranks(part) for part in cmr_thresholds(*student))
        means = sums / counts.clamp(min=1)
        updated = (means[0] - means[1:]).clamp(0, self.upper_bound)
        # Out of place: the backward pass of this step still needs the thresholds it was computed with.
        self.thresholds = torch.where(counts[1:] > 0, updated.to(self.thresholds.dtype), self.thresholds)


def _without_negatives(features: Features) -> Features:
    return features._replace(negatives=features.negatives[:, :0], negative_mask=features.negative_mask[:, :0])
