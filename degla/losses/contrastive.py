"""The global contrastive loss (DeGLA section 3.2; NegCLIP, Yuksekgonul et al. 2023)."""

import torch
from torch import Tensor

from degla.losses.cross_entropy import Duplicates, row_cross_entropy
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
    duplicates: Duplicates | None = None,
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
        duplicates: ids of the N samples, and what to do with samples that are alike, in both directions; None
            contrasts them with each other.

    Returns:
        ``()``, the mean over ``rows`` of half the image-to-text plus half the text-to-image cross-entropy. Gradient
        flows into every argument that requires it; a second derivative is not available.
    """
    labels = torch.arange(len(image_features), device=image_features.device)[rows]
    queries = logit_scale * image_features[rows]
    if own_negatives:
        own = torch.einsum("rd,rkd->rk", queries, negative_features[rows])
        own = own.masked_fill(~negative_mask[rows], float("-inf"))
        image_loss = row_cross_entropy(queries, text_features, labels, own_logits=own, duplicates=duplicates)
    else:
        columns = torch.cat([text_features, negative_features.flatten(0, 1)])
        valid = torch.cat([negative_mask.new_ones(len(text_features)), negative_mask.flatten()])
        image_loss = row_cross_entropy(queries, columns, labels, valid, duplicates=duplicates)
    text_loss = row_cross_entropy(logit_scale * text_features[rows], image_features, labels, duplicates=duplicates)
    return (image_loss + text_loss) / 2
