"""Objectives of methods that pair each negative caption with an image of its own: TripletCLIP and CoN-CLIP.

Shapes: N samples, D embedding. All features have unit norm.
"""

import torch
from torch import Tensor

from degla.losses.cross_entropy import row_cross_entropy
from degla.losses.precision import full_precision


@full_precision
def triplet_clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    negative_image_features: Tensor,
    negative_text_features: Tensor,
    logit_scale: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """Compute TripletCLIP's loss (Patel et al., NeurIPS 2024): NegCLIP's loss, and the same with the roles exchanged.

    Args:
        image_features: ``(N, D)``.
        text_features: ``(N, D)``.
        negative_image_features: ``(N, D)``, of an image that shows the negative caption.
        negative_text_features: ``(N, D)``, one negative caption per sample.
        logit_scale: ``()`` multiplier.
        mask: ``(N,)`` bool, False where a sample has no negative caption and image; None if all have.

    Returns:
        ``()``: the sum of the two losses, each a mean over the samples that it has, in float32. A second derivative
        is not available.
    """
    everywhere = torch.ones(len(image_features), dtype=torch.bool, device=image_features.device)
    has_negative = everywhere if mask is None else mask
    forwards = _choose(image_features, text_features, everywhere, negative_text_features, has_negative, logit_scale)
    backwards = _choose(text_features, image_features, everywhere, None, None, logit_scale)
    images, texts = negative_image_features, negative_text_features
    exchanged = _choose(images, texts, has_negative, text_features, everywhere, logit_scale)
    exchanged_backwards = _choose(texts, images, has_negative, None, None, logit_scale)
    return (forwards + backwards + exchanged + exchanged_backwards) / 2


@full_precision
def con_clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    negative_image_features: Tensor,
    negative_text_features: Tensor,
    logit_scale: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """Compute CoN-CLIP's loss (Singh et al., WACV 2025): negated captions and distractor images in three directions.

    Args:
        image_features: ``(N, D)``.
        text_features: ``(N, D)``.
        negative_image_features: ``(N, D)``, of a distractor image.
        negative_text_features: ``(N, D)``, of the negated caption.
        logit_scale: ``()`` multiplier.
        mask: ``(N,)`` bool, False where a sample has no negated caption and distractor image; None if all have.

    Returns:
        ``()``: the mean of three cross-entropies (image to captions, caption to images, distractor image to captions),
        in float32. A second derivative is not available.
    """
    everywhere = torch.ones(len(image_features), dtype=torch.bool, device=image_features.device)
    has_negative = everywhere if mask is None else mask
    images, texts = negative_image_features, negative_text_features
    losses = (
        _choose(image_features, text_features, everywhere, texts, has_negative, logit_scale),
        _choose(text_features, image_features, everywhere, images, has_negative, logit_scale),
        _choose(images, texts, has_negative, text_features, everywhere, logit_scale),
    )
    return torch.stack(losses).mean()


def _choose(
    queries: Tensor,
    positives: Tensor,
    exists: Tensor,
    others: Tensor | None,
    other_exists: Tensor | None,
    logit_scale: Tensor,
) -> Tensor:
    """Return the mean cross-entropy of the ``(N, D)`` queries that exist among ``positives`` and ``others``."""
    labels = torch.arange(len(queries), device=queries.device)
    columns, valid = positives, exists
    if others is not None and other_exists is not None:
        columns, valid = torch.cat([positives, others]), torch.cat([exists, other_exists])
    return row_cross_entropy(logit_scale * queries, columns, labels, valid, counted=exists)
