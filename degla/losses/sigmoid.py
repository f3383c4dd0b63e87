"""SigLIP's pairwise sigmoid loss with hard negative captions (Zhai et al., ICCV 2023)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from degla.losses.precision import full_precision


@full_precision
def sigmoid_loss(
    image_features: Tensor,
    text_features: Tensor,
    negative_features: Tensor,
    negative_mask: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    negatives: Literal["own", "batch"] = "own",
) -> Tensor:
    """Compute SigLIP's loss, with negative captions as further pairs that do not match.

    Every pair of image and text is a separate binary classification. Without negatives this is open_clip's
    ``SigLipLoss``.

    Args:
        image_features: ``(N, D)``, unit norm.
        text_features: ``(N, D)``, unit norm.
        negative_features: ``(N, K, D)``, unit norm; K may be 0.
        negative_mask: ``(N, K)`` bool.
        logit_scale: ``()`` multiplier.
        logit_bias: ``()`` added to every logit.
        negatives: an image is paired with its ``own`` K negatives, or with those of the whole ``batch``.

    Returns:
        ``()``: summed over the texts of an image, mean over images, in float32.
    """
    logits = logit_scale * image_features @ text_features.T + logit_bias
    signs = 2 * torch.eye(len(logits), device=logits.device, dtype=logits.dtype) - 1
    pairs = -F.logsigmoid(signs * logits).sum(1)
    if negatives == "own":
        scores = torch.einsum("nd,nkd->nk", image_features, negative_features)
        valid = negative_mask
    else:
        scores = image_features @ negative_features.flatten(0, 1).T
        valid = negative_mask.flatten().expand(len(scores), -1)
    against = -F.logsigmoid(-(logit_scale * scores + logit_bias))
    return (pairs + against.masked_fill(~valid, 0).sum(1)).mean()
