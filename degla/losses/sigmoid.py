"""SigLIP's pairwise sigmoid loss with hard negative captions (Zhai et al., ICCV 2023)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from degla.losses.cross_entropy import Duplicates
from degla.losses.pairwise import row_sigmoid
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
    rows: slice = slice(None),
    duplicates: Duplicates | None = None,
) -> Tensor:
    """Compute SigLIP's loss, with negative captions as further pairs that do not match.

    Every pair of image and text is a separate binary classification. Without negatives this is open_clip's
    ``SigLipLoss``. Only one block of the logits is in memory.

    Args:
        image_features: ``(N, D)``, unit norm, gathered over the ranks.
        text_features: ``(N, D)``, unit norm, gathered.
        negative_features: ``(N, K, D)``, unit norm, gathered; K may be 0.
        negative_mask: ``(N, K)`` bool.
        logit_scale: ``()`` multiplier.
        logit_bias: ``()`` added to every logit.
        negatives: an image is paired with its ``own`` K negatives, or with those of the whole ``batch``.
        rows: the images whose mean is returned; a rank passes its own under ``local_loss``.
        duplicates: ids of the N captions, and what to do with pairs of a sample and another one's caption that are
            alike; None counts them as pairs that do not match.

    Returns:
        ``()``: summed over the texts of an image, mean over ``rows``, in float32. A second derivative is not
        available.
    """
    labels = torch.arange(len(image_features), device=image_features.device)[rows]
    queries = logit_scale * image_features[rows]
    if negatives == "own":
        pairs = row_sigmoid(queries, text_features, logit_bias, labels, duplicates=duplicates)
        scores = torch.einsum("rd,rkd->rk", queries, negative_features[rows]) + logit_bias
        return pairs + F.softplus(scores).masked_fill(~negative_mask[rows], 0).sum(1).mean()
    columns = torch.cat([text_features, negative_features.flatten(0, 1)])
    valid = torch.cat([negative_mask.new_ones(len(text_features)), negative_mask.flatten()])
    return row_sigmoid(queries, columns, logit_bias, labels, valid, duplicates)
