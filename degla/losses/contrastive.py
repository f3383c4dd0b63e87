"""The global contrastive loss (DeGLA section 3.2; NegCLIP, Yuksekgonul et al. 2023)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from degla.losses.cross_entropy import row_cross_entropy
from degla.losses.precision import full_precision


@full_precision
def contrastive_loss(
    image_features: Tensor,
    text_features: Tensor,
    negative_features: Tensor,
    negative_mask: Tensor,
    logit_scale: Tensor,
    rows: slice = slice(None),
    own_negatives: bool = False,
) -> Tensor:
    """Compute symmetric InfoNCE in which each image is also contrasted with every negative caption of the batch.

    An image is contrasted with N captions and all N x K negatives, a caption with N images. Negatives are columns
    only. They are never queries, so they add no rows of logits.

    Args:
        image_features: ``(N, D)``, unit norm, gathered over the ranks.
        text_features: ``(N, D)``, unit norm, gathered.
        negative_features: ``(N, K, D)``, unit norm, gathered; K may be 0.
        negative_mask: ``(N, K)`` bool, True where a negative exists.
        logit_scale: ``()`` multiplier of the cosines.
        rows: which of the N samples are queries; a rank passes its own under ``local_loss``.
        own_negatives: contrast an image with its own K negatives only, as equation 4 of the paper is printed. The
            authors' code uses those of the whole batch.

    Returns:
        ``()``, the mean over ``rows`` of half the image-to-text plus half the text-to-image cross-entropy. Gradient
        flows into every argument that requires it; a second derivative is not available.
    """
    labels = torch.arange(len(image_features), device=image_features.device)[rows]
    columns = torch.cat([text_features, negative_features.flatten(0, 1)])
    valid = torch.cat([negative_mask.new_ones(len(text_features)), negative_mask.flatten()])
    if own_negatives:
        image_loss = _own_negatives_loss(
            logit_scale * image_features[rows], text_features, negative_features[rows], negative_mask[rows], labels
        )
    else:
        image_loss = row_cross_entropy(logit_scale * image_features[rows], columns, labels, valid)
    text_loss = row_cross_entropy(logit_scale * text_features[rows], image_features, labels)
    return (image_loss + text_loss) / 2


def _own_negatives_loss(queries: Tensor, texts: Tensor, negatives: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of ``(R, D)`` queries among all ``(N, D)`` texts and their own negatives."""
    own = torch.einsum("rd,rkd->rk", queries, negatives).masked_fill(~mask, float("-inf"))
    return F.cross_entropy(torch.cat([queries @ texts.T, own], dim=1), labels)
