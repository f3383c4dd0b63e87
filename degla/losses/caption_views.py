"""Loss terms that use further texts of a sample: units and foils, paraphrases, second captions.

Shapes: B samples, U units, D embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

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
        image_features: ``(B, D)``, unit norm.
        unit_features: ``(B, U, D)``, unit norm: parts of the caption such as a noun phrase or a relation.
        foil_features: ``(B, U, D)``, unit norm: each unit with one word changed.
        unit_mask: ``(B, U)`` bool, True where a unit and its foil exist.
        logit_scale: ``()`` multiplier.

    Returns:
        ``()`` mean over the U slots, in float32. CS-CLIP weights it by 0.5.
    """
    losses = []
    for units, foils, mask in zip(unit_features.unbind(1), foil_features.unbind(1), unit_mask.unbind(1), strict=True):
        images, units, foils = image_features[mask], units[mask], foils[mask]
        if not len(images):
            losses.append(image_features.sum() * 0)
            continue
        labels = torch.arange(len(images), device=images.device)
        to_units = logit_scale * images @ units.T
        to_foils = logit_scale * (images * foils).sum(-1, keepdim=True)
        image_loss = F.cross_entropy(torch.cat([to_units, to_foils], dim=1), labels)
        losses.append((image_loss + F.cross_entropy(to_units.T, labels)) / 2)
    return torch.stack(losses).mean() if losses else image_features.sum() * 0


@full_precision
def paraphrase_loss(paraphrase_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    """Compute READ-CLIP's alignment: a paraphrase finds its caption among the captions of the batch.

    Args:
        paraphrase_features: ``(B, D)``, unit norm.
        text_features: ``(N, D)``, unit norm; caption i belongs to paraphrase i.
        logit_scale: ``()`` multiplier.

    Returns:
        ``()`` mean cross-entropy over the paraphrases, in float32. READ-CLIP weights it by 0.5.
    """
    labels = torch.arange(len(paraphrase_features), device=paraphrase_features.device)
    return F.cross_entropy(logit_scale * paraphrase_features @ text_features.T, labels)


@full_precision
def caption_agreement_loss(first_features: Tensor, second_features: Tensor) -> Tensor:
    """Compute CLIC's uni-modal term: the squared distance of two captions of one image.

    Args:
        first_features: ``(B, D)``, unit norm.
        second_features: ``(B, D)``, unit norm.

    Returns:
        ``()``: summed over D, mean over samples, in float32; 0 where the captions agree.
    """
    return (first_features - second_features).square().sum(-1).mean()
