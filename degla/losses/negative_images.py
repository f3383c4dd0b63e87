"""Objectives of methods that pair each negative caption with an image of its own: TripletCLIP and CoN-CLIP.

Shapes: N samples, D embedding. All features have unit norm.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from degla.losses.precision import full_precision


@full_precision
def triplet_clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    negative_image_features: Tensor,
    negative_text_features: Tensor,
    logit_scale: Tensor,
) -> Tensor:
    """Compute TripletCLIP's loss (Patel et al., NeurIPS 2024): NegCLIP's loss, and the same with the roles exchanged.

    Args:
        image_features: ``(N, D)``.
        text_features: ``(N, D)``.
        negative_image_features: ``(N, D)``, of an image that shows the negative caption.
        negative_text_features: ``(N, D)``, one negative caption per sample.
        logit_scale: ``()`` multiplier.

    Returns:
        ``()``: the sum of the two losses, each a mean over samples, in float32.
    """
    return _neg_clip(image_features, text_features, negative_text_features, logit_scale) + _neg_clip(
        negative_image_features, negative_text_features, text_features, logit_scale
    )


@full_precision
def con_clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    negative_image_features: Tensor,
    negative_text_features: Tensor,
    logit_scale: Tensor,
) -> Tensor:
    """Compute CoN-CLIP's loss (Singh et al., WACV 2025): negated captions and distractor images in three directions.

    Args:
        image_features: ``(N, D)``.
        text_features: ``(N, D)``.
        negative_image_features: ``(N, D)``, of a distractor image.
        negative_text_features: ``(N, D)``, of the negated caption.
        logit_scale: ``()`` multiplier.

    Returns:
        ``()``: the mean of three cross-entropies (image to captions, caption to images, distractor image to captions),
        in float32.
    """
    labels = torch.arange(len(image_features), device=image_features.device)
    directions = (
        (image_features, text_features, negative_text_features),
        (text_features, image_features, negative_image_features),
        (negative_image_features, negative_text_features, text_features),
    )
    losses = [
        F.cross_entropy(logit_scale * queries @ torch.cat([positives, negatives]).T, labels)
        for queries, positives, negatives in directions
    ]
    return torch.stack(losses).mean()


def _neg_clip(images: Tensor, texts: Tensor, negatives: Tensor, logit_scale: Tensor) -> Tensor:
    """Return NegCLIP's loss: an image sees captions and negatives, a caption sees images."""
    labels = torch.arange(len(images), device=images.device)
    image_loss = F.cross_entropy(logit_scale * images @ torch.cat([texts, negatives]).T, labels)
    return (image_loss + F.cross_entropy(logit_scale * texts @ images.T, labels)) / 2
