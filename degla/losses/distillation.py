"""Self-distillation, which keeps the student's embeddings near the teacher's (DeGLA section 3.2)."""

from torch import Tensor

from degla.losses.precision import full_precision


@full_precision
def distillation_loss(
    image_features: Tensor,
    text_features: Tensor,
    negative_features: Tensor,
    teacher_image_features: Tensor,
    teacher_text_features: Tensor,
    teacher_negative_features: Tensor,
    negative_mask: Tensor,
) -> Tensor:
    """Compute the squared distance to the teacher over images, captions and negatives, as a mean over samples.

    Squares are summed over D and over a sample's image, caption and negatives, then averaged over the B samples
    (``batchmean``). So the strength depends neither on the batch size nor on the number of GPUs. The authors sum over
    the whole global batch instead; their weight of 0.005 at 256 samples is 1.28 here.

    Args:
        image_features: ``(B, D)`` of the student.
        text_features: ``(B, D)`` of the student.
        negative_features: ``(B, K, D)`` of the student.
        teacher_image_features: ``(B, D)``; no teacher argument gets a gradient.
        teacher_text_features: ``(B, D)``.
        teacher_negative_features: ``(B, K, D)``.
        negative_mask: ``(B, K)`` bool; masked negatives add nothing.

    Returns:
        ``()``, never negative, 0 where student and teacher are equal.
    """
    image = (image_features - teacher_image_features.detach()).square().sum(-1)
    text = (text_features - teacher_text_features.detach()).square().sum(-1)
    negatives = (negative_features - teacher_negative_features.detach()).square().sum(-1)
    return (image + text + negatives.masked_fill(~negative_mask, 0).sum(-1)).mean()
