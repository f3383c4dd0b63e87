"""Validation metrics: retrieval, and the choice of a caption among its own negatives.

Shapes: B samples of a batch, I images, T texts, K negatives a sample, D embedding size.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from degla.data.schema import Negative
from degla.losses import Features

RECALL_AT = (1, 5, 10)  # the cut-offs K of recall@K


class EmbeddedBatch(NamedTuple):
    """Embedded validation samples of one batch, on the CPU."""

    image: Tensor  # (B, D)
    text: Tensor  # (B, D)
    image_keys: list[str]  # B; samples of one image have the same key
    outcomes: list[list[tuple[str, bool]]]  # B lists of (type of the negative, whether the caption scored higher)


def embed_batch(features: Features, image_keys: list[str], slots: list[list[Negative | None]]) -> EmbeddedBatch:
    """Compare each caption with its own negatives, and keep the embeddings for retrieval.

    A tie counts as wrong, so that an encoder with one embedding for all texts does not score.

    Args:
        features: ``(B, D)`` images and texts and ``(B, K, D)`` negatives, unit norm.
        image_keys: B keys; samples of one image have the same key.
        slots: B lists of the K negatives; None where a slot is empty.
    """
    captions = (features.image * features.text).sum(-1, keepdim=True)
    negatives = torch.einsum("bd,bkd->bk", features.image, features.negatives)
    is_higher = (captions > negatives).cpu()
    outcomes = [
        [(negative.type, bool(is_higher[row, slot])) for slot, negative in enumerate(negatives) if negative]
        for row, negatives in enumerate(slots)
    ]
    return EmbeddedBatch(features.image.cpu(), features.text.cpu(), image_keys, outcomes)


def validation_metrics(batches: list[EmbeddedBatch]) -> dict[str, float]:
    """Compute the metrics of all validation samples.

    Args:
        batches: embedded samples of all ranks.

    Returns:
        Fractions in [0, 1]: ``image_to_text_r@K`` (a query is an image; any of its captions counts),
        ``text_to_image_r@K``, ``caption_choice`` (share of captions that score higher than every one of their own
        negatives) and ``caption_choice/<type>`` (share of pairs).
    """
    image_keys = [key for batch in batches for key in batch.image_keys]
    first_row = {key: row for row, key in reversed(list(enumerate(image_keys)))}
    number = {key: i for i, key in enumerate(first_row)}
    images = torch.cat([batch.image for batch in batches])[list(first_row.values())]
    texts = torch.cat([batch.text for batch in batches])
    image_of_text = torch.tensor([number[key] for key in image_keys])
    metrics = recalls(images @ texts.T, image_of_text)
    outcomes = [sample for batch in batches for sample in batch.outcomes if sample]
    if outcomes:
        metrics["caption_choice"] = sum(all(higher for _, higher in sample) for sample in outcomes) / len(outcomes)
        by_type: dict[str, list[bool]] = {}
        for type_, higher in (pair for sample in outcomes for pair in sample):
            by_type.setdefault(type_, []).append(higher)
        metrics |= {f"caption_choice/{type_}": sum(pairs) / len(pairs) for type_, pairs in sorted(by_type.items())}
    return metrics


def recalls(similarity: Tensor, image_of_text: Tensor) -> dict[str, float]:
    """Compute recall@K in both directions.

    Args:
        similarity: ``(I, T)`` of images and texts.
        image_of_text: ``(T,)`` int64, the image of each text.
    """
    metrics = {}
    for k in RECALL_AT:
        texts = similarity.topk(min(k, similarity.shape[1]), dim=1).indices
        is_found = (image_of_text[texts] == torch.arange(len(similarity))[:, None]).any(1)
        metrics[f"image_to_text_r@{k}"] = is_found.float().mean().item()
        images = similarity.topk(min(k, len(similarity)), dim=0).indices
        metrics[f"text_to_image_r@{k}"] = (images == image_of_text).any(0).float().mean().item()
    return metrics
