"""The two hard-negative terms of FSC-CLIP (Oh et al., EMNLP 2024): focal cross-entropy with label smoothing.

Shapes: B samples, K negatives, D embedding, P patches, T tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from degla.losses.precision import full_precision


@full_precision
def focal_negative_loss(
    image_features: Tensor,
    text_features: Tensor,
    negative_features: Tensor,
    negative_mask: Tensor,
    logit_scale: Tensor,
    gamma: float = 2.0,
    smoothing: float = 0.02,
    mask_empty: bool = False,
) -> Tensor:
    """Compute FSC-CLIP's global term: an image chooses its caption among its own negatives, by a focal loss.

    The mean over samples that have a negative of ``sum_c y_c (1 - p_c)^gamma (-log p_c)``, with ``p`` the softmax over
    caption and negatives and ``y`` the one-hot target smoothed over the valid choices. FSC-CLIP weights it by 0.5.

    Args:
        image_features: ``(B, D)``, unit norm.
        text_features: ``(B, D)``, unit norm.
        negative_features: ``(B, K, D)``, unit norm.
        negative_mask: ``(B, K)`` bool.
        logit_scale: ``()`` multiplier.
        gamma: exponent of the focal factor; 0 gives smoothed cross-entropy.
        smoothing: share of the target that is spread evenly over caption and valid negatives.
        mask_empty: leave empty slots out of the softmax. The released code keeps them with logit 0.

    Returns:
        ``()`` in float32; 0 if no sample has a negative.
    """
    captions = (image_features * text_features).sum(-1, keepdim=True)
    negatives = torch.einsum("bd,bkd->bk", image_features, negative_features)
    logits = logit_scale * torch.cat([captions, negatives], dim=1)
    return _focal_choice(logits, negative_mask, gamma=gamma, smoothing=smoothing, mask_empty=mask_empty)


@full_precision
def token_negative_loss(
    patch_features: Tensor,
    token_features: Tensor,
    token_mask: Tensor,
    negative_token_features: Tensor,
    negative_token_mask: Tensor,
    negative_mask: Tensor,
    logit_scale: Tensor,
    gamma: float = 2.0,
    smoothing: float = 0.02,
    mask_empty: bool = False,
) -> Tensor:
    """Compute FSC-CLIP's local term: the focal choice of ``focal_negative_loss`` on scores of words against patches.

    Each token attends to the patches by its min-max normalised products with them, without gradient. The score of a
    text is the log-sum-exp over its tokens of the scaled cosine of token and attended patches. FSC-CLIP weights it
    by 0.2.

    Args:
        patch_features: ``(B, P, D)``, not normalised, without the class token.
        token_features: ``(B, T, D)``, not normalised.
        token_mask: ``(B, T)`` bool, True where a token counts: not the start token, not padding.
        negative_token_features: ``(B, K, T, D)``, not normalised.
        negative_token_mask: ``(B, K, T)`` bool.
        negative_mask: ``(B, K)`` bool.
        logit_scale: ``()`` multiplier.
        gamma: see ``focal_negative_loss``.
        smoothing: see ``focal_negative_loss``.
        mask_empty: see ``focal_negative_loss``.

    Returns:
        ``()`` in float32; 0 if no sample has a negative.
    """
    tokens = torch.cat([token_features[:, None], negative_token_features], dim=1)
    mask = torch.cat([token_mask[:, None], negative_token_mask], dim=1)
    with torch.no_grad():
        attention = torch.einsum("bctd,bpd->bctp", tokens, patch_features)
        lowest, highest = attention.amin(-1, keepdim=True), attention.amax(-1, keepdim=True)
        attention = (attention - lowest) / (highest - lowest).clamp(min=_TINY)
        attention = attention / attention.sum(-1, keepdim=True).clamp(min=_TINY)
    attended = F.normalize(torch.einsum("bctp,bpd->bctd", attention, patch_features), dim=-1)
    scores = logit_scale * (attended * F.normalize(tokens, dim=-1)).sum(-1)
    # A text without any token has no score. Where it fills an empty slot, the released code gives it logit 0.
    has_tokens = mask.any(-1)
    scores = scores.masked_fill(~mask, float("-inf")).masked_fill(~has_tokens[..., None], 0)
    logits = scores.logsumexp(-1).masked_fill(~has_tokens, 0)
    return _focal_choice(logits, negative_mask, gamma=gamma, smoothing=smoothing, mask_empty=mask_empty)


_TINY = 1e-12  # smallest divisor of the attention, and smallest base of the focal power


def _focal_choice(logits: Tensor, negative_mask: Tensor, *, gamma: float, smoothing: float, mask_empty: bool) -> Tensor:
    """Return the focal loss of choosing column 0 of ``(B, 1 + K)`` logits, averaged over samples with a negative."""
    valid = torch.cat([negative_mask.new_ones(len(logits), 1), negative_mask], dim=1)
    logits = logits.masked_fill(~valid, float("-inf") if mask_empty else 0)
    targets = valid.to(logits.dtype) * smoothing / valid.sum(1, keepdim=True)
    targets[:, 0] += 1 - smoothing
    # Empty slots have target 0. Their log-probability may be -inf, and 0 * inf is NaN.
    log_probabilities = logits.log_softmax(1).masked_fill(~valid, 0)
    # At 0 the power has an infinite slope for gamma below 1. A probability of exactly 1 then gave a NaN gradient.
    misses = (1 - log_probabilities.exp()).clamp(min=_TINY)
    losses = (-targets * misses**gamma * log_probabilities).sum(1)
    has_negative = negative_mask.any(1)
    return (losses * has_negative).sum() / has_negative.sum().clamp(min=1)
