"""The two terms that CE-CLIP adds (Zhang et al., CVPR 2024), as its paper defines them.

IMC in the released repository lacks the positive column and labels every row 0. This module follows the paper and the
repository's earlier commit 2d07821.
"""

import torch
from torch import Tensor

from degla.losses.precision import full_precision


@full_precision
def imc_loss(
    image_features: Tensor,
    text_features: Tensor,
    negative_features: Tensor,
    negative_mask: Tensor,
    logit_scale: Tensor,
    rows: slice = slice(None),
) -> Tensor:
    """Compute the intra-modal contrast: a caption against its image and every negative caption of the batch.

    The mean over ``rows`` of ``-log(e^(s v.t) / (e^(s v.t) + sum over all negatives e^(s t.n)))``.

    Args:
        image_features: ``(N, D)``, unit norm, gathered over the ranks.
        text_features: ``(N, D)``, unit norm, gathered.
        negative_features: ``(N, K, D)``, unit norm, gathered.
        negative_mask: ``(N, K)`` bool.
        logit_scale: ``()`` multiplier.
        rows: which of the N samples are queries.

    Returns:
        ``()``.
    """
    queries = logit_scale * text_features[rows]
    positive = (queries * image_features[rows]).sum(-1, keepdim=True)
    to_negatives = queries @ negative_features.flatten(0, 1).T
    to_negatives = to_negatives.masked_fill(~negative_mask.flatten(), float("-inf"))
    logits = torch.cat([positive, to_negatives], dim=1)
    return (logits.logsumexp(dim=1) - positive.squeeze(1)).mean()


@full_precision
def cmr_loss(
    image_features: Tensor,
    text_features: Tensor,
    negative_features: Tensor,
    negative_mask: Tensor,
    logit_scale: Tensor,
    thresholds: Tensor,
) -> Tensor:
    """Compute the cross-modal rank: a hinge with one adaptive threshold for each slot of negatives.

    The mean over B x K of ``max(0, th_k + s v.n_k - s v.t)``. A missing negative adds 0 and is counted in the mean.

    Args:
        image_features: ``(B, D)``, unit norm.
        text_features: ``(B, D)``, unit norm.
        negative_features: ``(B, K, D)``, unit norm.
        negative_mask: ``(B, K)`` bool.
        logit_scale: ``()`` multiplier.
        thresholds: ``(K,)``, no gradient.

    Returns:
        ``()``.
    """
    gap = _caption_gap(image_features, text_features, negative_features, logit_scale)
    hinge = (thresholds - gap).clamp(min=0).masked_fill(~negative_mask, 0)
    return hinge.mean() if hinge.numel() else hinge.sum()


@torch.no_grad()
def cmr_thresholds(
    image_features: Tensor,
    text_features: Tensor,
    negative_features: Tensor,
    negative_mask: Tensor,
    logit_scale: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the sums and counts from which the next step's thresholds are computed.

    The threshold of slot k is the mean caption score of all samples minus the mean score of the negatives that exist
    in slot k. The caller adds the sums and counts over the ranks and clamps the result to [0, upper bound].

    Args:
        image_features: ``(B, D)``, unit norm.
        text_features: ``(B, D)``, unit norm.
        negative_features: ``(B, K, D)``, unit norm.
        negative_mask: ``(B, K)`` bool.
        logit_scale: ``()`` multiplier.

    Returns:
        ``(1 + K,)`` sums of scores (captions, then each slot) and ``(1 + K,)`` numbers of scores in each sum.
    """
    captions = logit_scale * (image_features * text_features).sum(-1)
    negatives = logit_scale * torch.einsum("bd,bkd->bk", image_features, negative_features)
    sums = torch.cat([captions.sum()[None], negatives.masked_fill(~negative_mask, 0).sum(0)])
    counts = torch.cat([negative_mask.new_tensor([len(captions)], dtype=torch.long), negative_mask.sum(0)])
    return sums, counts.to(sums.dtype)


def _caption_gap(image: Tensor, text: Tensor, negatives: Tensor, logit_scale: Tensor) -> Tensor:
    """Return ``(B, K)``: the caption's score minus each negative's."""
    captions = (image * text).sum(-1, keepdim=True)
    return logit_scale * (captions - torch.einsum("bd,bkd->bk", image, negatives))
