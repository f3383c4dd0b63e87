"""The two terms in which the authors' released code departs from their paper, as that code computes them.

For those who compare numbers; ``docs/losses.md`` explains both. N rows, K negatives a row, no ragged rows.
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
    """TGC with the released mask: row i keeps the flat negatives i, i + N, i + 2N, ...

    Negatives lie sample-major (row 0's K, then row 1's K), the mask is tiled as if they lay slot-major, so
    for N > 1 most kept negatives belong to other rows.

    Args:
        text_features: ``(N, D)``, unit norm, gathered over the ranks.
        teacher_text_features: ``(N, D)``, unit norm, gathered; gets no gradient.
        negative_features: ``(N, K, D)``, unit norm, gathered.
        scale: fixed multiplier.

    Returns:
        ``()``, the mean over the N rows.
    """
    rows, slots, _ = negative_features.shape
    tiled = negative_features.flatten(0, 1).unflatten(0, (slots, rows)).transpose(0, 1)
    every = torch.ones(rows, slots, dtype=torch.bool, device=tiled.device)
    return tgc_loss(text_features, teacher_text_features, tiled, every, scale)


@full_precision
def released_distillation_loss(
    image_features: Tensor,
    text_features: Tensor,
    negative_features: Tensor,
    teacher_image_features: Tensor,
    teacher_text_features: Tensor,
    teacher_negative_features: Tensor,
) -> Tensor:
    """Self-distillation as a sum over the whole global batch, so its strength grows with the batch.

    Args:
        image_features: ``(N, D)``, gathered; the teacher's likewise, without gradient.
        text_features: ``(N, D)``.
        negative_features: ``(N, K, D)``.
        teacher_image_features: ``(N, D)``.
        teacher_text_features: ``(N, D)``.
        teacher_negative_features: ``(N, K, D)``.

    Returns:
        ``()``, the sum of squared differences.
    """
    texts = torch.cat([text_features, negative_features.flatten(0, 1)])
    teacher_texts = torch.cat([teacher_text_features, teacher_negative_features.flatten(0, 1)]).detach()
    image_sum = F.mse_loss(image_features, teacher_image_features.detach(), reduction="sum")
    return image_sum + F.mse_loss(texts, teacher_texts, reduction="sum")
