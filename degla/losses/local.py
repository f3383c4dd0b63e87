"""The two local terms, which contrast a sample with its own negatives only (DeGLA section 3.3)."""

import torch
from torch import Tensor

from degla.losses.precision import full_precision


@full_precision
def igc_loss(
    image_features: Tensor,
    text_features: Tensor,
    negative_features: Tensor,
    negative_mask: Tensor,
    logit_scale: Tensor,
) -> Tensor:
    """Compute the image-grounded contrast: an image against its own caption and its own K negatives.

    The mean over samples of ``-log(e^(s v.t) / (e^(s v.t) + sum_k e^(s v.n_k)))``. A sample without negatives adds
    exactly 0 and is counted in the mean.

    Args:
        image_features: ``(B, D)``, unit norm.
        text_features: ``(B, D)``, unit norm.
        negative_features: ``(B, K, D)``, unit norm.
        negative_mask: ``(B, K)`` bool.
        logit_scale: ``()`` learned multiplier.

    Returns:
        ``()``. Samples are independent: changing one sample's negatives leaves the others' parts unchanged.
    """
    return _choice_loss(image_features, text_features, negative_features, negative_mask, logit_scale)


@full_precision
def tgc_loss(
    text_features: Tensor,
    teacher_text_features: Tensor,
    negative_features: Tensor,
    negative_mask: Tensor,
    scale: Tensor | float = 10.0,
) -> Tensor:
    """Compute the text-grounded contrast: a caption against the teacher's embedding of it and its own K negatives.

    The mean over samples of ``-log(e^(s t.t*) / (e^(s t.t*) + sum_k e^(s t.n_k)))``. The authors' code tiles its mask
    although its negatives are sample-major, and so contrasts most captions with other captions' negatives. That form
    is in ``degla.losses.released``.

    Args:
        text_features: ``(B, D)`` of the student, unit norm.
        teacher_text_features: ``(B, D)`` of the teacher, unit norm; gets no gradient.
        negative_features: ``(B, K, D)`` of the student, unit norm.
        negative_mask: ``(B, K)`` bool.
        scale: multiplier; the authors' code has the constant 10, the paper the learned ``()`` multiplier.

    Returns:
        ``()``.
    """
    return _choice_loss(text_features, teacher_text_features.detach(), negative_features, negative_mask, scale)


def _choice_loss(query: Tensor, positive: Tensor, negatives: Tensor, mask: Tensor, scale: Tensor | float) -> Tensor:
    """Return the mean cross-entropy of choosing ``positive`` among itself and the sample's own valid ``negatives``."""
    positive_logits = scale * (query * positive).sum(-1, keepdim=True)
    negative_logits = scale * torch.einsum("bd,bkd->bk", query, negatives)
    logits = torch.cat([positive_logits, negative_logits.masked_fill(~mask, float("-inf"))], dim=1)
    return (logits.logsumexp(dim=1) - positive_logits.squeeze(1)).mean()
