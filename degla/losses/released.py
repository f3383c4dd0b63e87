"""The two terms in which the authors' released code departs from their paper, computed as that code does.

They exist for comparisons with the released code; ``docs/losses.md`` explains both. Shapes: N samples with exactly K
negatives each.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from degla.losses.local import tgc_loss
from degla.losses.precision import full_precision


@full_precision
def released_tgc_loss(
    text_features: Tensor, teacher_text_features: Tensor, negative_features: Tensor, scale: float = 10.0
) -> Tensor:
    """Compute TGC with the released mask, under which sample i keeps the flat negatives i, i + N, i + 2N, ...

    Negatives lie sample-major (the K of sample 0, then the K of sample 1), but the mask is tiled as if they lay
    slot-major. So for N > 1 most of the kept negatives belong to other samples.

    Args:
        text_features: ``(N, D)``, unit norm, gathered over the ranks.
        teacher_text_features: ``(N, D)``, unit norm, gathered; gets no gradient.
        negative_features: ``(N, K, D)``, unit norm, gathered.
        scale: fixed multiplier.

    Returns:
        ``()``, the mean over the N samples.
    """
    samples, slots, _ = negative_features.shape
    tiled = torch.unflatten(negative_features.flatten(0, 1), 0, (slots, samples)).transpose(0, 1)
    every_slot = torch.ones(samples, slots, dtype=torch.bool, device=tiled.device)
    return tgc_loss(
        text_features=text_features,
        teacher_text_features=teacher_text_features,
        negative_features=tiled,
        negative_mask=every_slot,
        scale=scale,
    )


@full_precision
def released_distillation_loss(
    image_features: Tensor,
    text_features: Tensor,
    negative_features: Tensor,
    teacher_image_features: Tensor,
    teacher_text_features: Tensor,
    teacher_negative_features: Tensor,
) -> Tensor:
    """Compute self-distillation as a sum over the whole global batch, so that its strength grows with the batch.

    Args:
        image_features: ``(N, D)`` of the student, gathered.
        text_features: ``(N, D)`` of the student, gathered.
        negative_features: ``(N, K, D)`` of the student, gathered.
        teacher_image_features: ``(N, D)``, gathered; no teacher argument gets a gradient.
        teacher_text_features: ``(N, D)``.
        teacher_negative_features: ``(N, K, D)``.

    Returns:
        ``()``, the sum of squared differences.
    """
    texts = torch.cat([text_features, negative_features.flatten(0, 1)])
    teacher_texts = torch.cat([teacher_text_features, teacher_negative_features.flatten(0, 1)]).detach()
    image_sum = F.mse_loss(image_features, teacher_image_features.detach(), reduction="sum")
    return image_sum + F.mse_loss(texts, teacher_texts, reduction="sum")
