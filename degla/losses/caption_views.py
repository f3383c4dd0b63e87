"""Loss terms that use further texts of a sample: units and foils, paraphrases, second captions.

Shapes: B samples, N samples over all ranks, U units, D embedding.
"""

import torch
from torch import Tensor

from degla.losses.cross_entropy import row_cross_entropy
from degla.losses.precision import full_precision


@full_precision
def unit_contrast_loss(
    image_features: Tensor,
    unit_features: Tensor,
    foil_features: Tensor,
    unit_mask: Tensor,
    logit_scale: Tensor,
) -> Tensor:
    """Compute CS-CLIP's term: images against units of their captions and the minimally changed foil of each unit.

    For each slot, over the samples that have a unit there: half the cross-entropy of an image among all units of the
    slot and its own unit's foil, plus half that of a unit among the images. A slot without any unit counts as 0.

    Args:
        image_features: ``(N, D)``, unit norm, gathered over the ranks.
        unit_features: ``(N, U, D)``, unit norm: parts of the caption such as a noun phrase or a relation.
        foil_features: ``(N, U, D)``, unit norm: each unit with one word changed.
        unit_mask: ``(N, U)`` bool, True where a unit and its foil exist.
        logit_scale: ``()`` multiplier.

    Returns:
        ``()`` mean over the U slots, in float32. CS-CLIP weights it by 0.5. A second derivative is not available.
    """
    labels = torch.arange(len(image_features), device=image_features.device)
    queries = logit_scale * image_features
    losses = []
    for units, foils, mask in zip(unit_features.unbind(1), foil_features.unbind(1), unit_mask.unbind(1), strict=True):
        to_foil = (queries * foils).sum(-1, keepdim=True)
        image_loss = row_cross_entropy(queries, units, labels, mask, own_logits=to_foil, counted=mask)
        unit_loss = row_cross_entropy(logit_scale * units, image_features, labels, mask, counted=mask)
        losses.append((image_loss + unit_loss) / 2)
    return torch.stack(losses).mean() if losses else image_features.sum() * 0


@full_precision
def paraphrase_loss(
    paraphrase_features: Tensor, text_features: Tensor, logit_scale: Tensor, paraphrase_mask: Tensor | None = None
) -> Tensor:
    """Compute READ-CLIP's alignment: a paraphrase finds its caption among the captions of the batch.

    Args:
        paraphrase_features: ``(N, D)``, unit norm.
        text_features: ``(N, D)``, unit norm; caption i belongs to paraphrase i.
        logit_scale: ``()`` multiplier.
        paraphrase_mask: ``(N,)`` bool, False where a sample has no paraphrase; None if all have.

    Returns:
        ``()`` mean cross-entropy over the paraphrases, in float32. READ-CLIP weights it by 0.5. A second derivative
        is not available.
    """
    labels = torch.arange(len(paraphrase_features), device=paraphrase_features.device)
    return row_cross_entropy(logit_scale * paraphrase_features, text_features, labels, counted=paraphrase_mask)


@full_precision
def caption_agreement_loss(
    first_features: Tensor, second_features: Tensor, second_mask: Tensor | None = None
) -> Tensor:
    """Compute CLIC's uni-modal term: the squared distance of two captions of one image.

    Args:
        first_features: ``(B, D)``, unit norm.
        second_features: ``(B, D)``, unit norm.
        second_mask: ``(B,)`` bool, False where a sample has no second caption; None if all have.

    Returns:
        ``()``: summed over D, mean over samples with two captions, in float32; 0 where the captions agree.
    """
    distances = (first_features - second_features).square().sum(-1)
    if second_mask is None:
        return distances.mean()
    return distances.masked_fill(~second_mask, 0).sum() / second_mask.sum().clamp(min=1)
