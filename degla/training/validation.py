"""What tells gain and forgetting early: retrieval, and picking a caption among its own negatives."""

from typing import NamedTuple

import torch
from torch import Tensor

from degla.data.schema import Negative
from degla.losses import Features

RECALL_AT = (1, 5, 10)


class Embedded(NamedTuple):
    """Embedded validation rows of one batch, on the CPU."""

    image: Tensor  # (B, D)
    text: Tensor  # (B, D)
    image_keys: list[str]  # B; rows of one image share a key
    won: list[list[tuple[str, bool]]]  # B lists of (kind of negative, whether the caption beat it)


def embed(features: Features, image_keys: list[str], slots: list[list[Negative | None]]) -> Embedded:
    """Score a batch's captions against their own negatives, and keep what retrieval needs.

    A tie counts as lost: an encoder that gives all texts one embedding must not score.
    """
    captions = (features.image * features.text).sum(-1, keepdim=True)
    negatives = torch.einsum("bd,bkd->bk", features.image, features.negatives)
    won = (captions > negatives).cpu()
    outcomes = [
        [(negative.type, bool(won[row, slot])) for slot, negative in enumerate(negatives) if negative]
        for row, negatives in enumerate(slots)
    ]
    return Embedded(features.image.cpu(), features.text.cpu(), image_keys, outcomes)


def validation_metrics(batches: list[Embedded]) -> dict[str, float]:
    """Fractions in [0, 1] over all validation rows.

    Returns:
        ``image_to_text_r@K`` (a query is an image; any of its captions counts), ``text_to_image_r@K``,
        ``caption_choice`` (share of captions that beat every one of their own negatives) and
        ``caption_choice/<kind>`` (share of pairs).
    """
    image_keys = [key for batch in batches for key in batch.image_keys]
    first_row = {key: row for row, key in reversed(list(enumerate(image_keys)))}
    number = {key: i for i, key in enumerate(first_row)}
    images = torch.cat([batch.image for batch in batches])[list(first_row.values())]
    texts = torch.cat([batch.text for batch in batches])
    owner = torch.tensor([number[key] for key in image_keys])
    metrics = _recalls(images @ texts.T, owner)
    outcomes = [row for batch in batches for row in batch.won if row]
    if outcomes:
        metrics["caption_choice"] = sum(all(won for _, won in row) for row in outcomes) / len(outcomes)
        kinds: dict[str, list[bool]] = {}
        for kind, won in (pair for row in outcomes for pair in row):
            kinds.setdefault(kind, []).append(won)
        metrics |= {f"caption_choice/{kind}": sum(won) / len(won) for kind, won in sorted(kinds.items())}
    return metrics


def _recalls(similarity: Tensor, owner: Tensor) -> dict[str, float]:
    """Recall of ``(I, T)`` similarities; ``owner`` ``(T,)`` is each text's image."""
    metrics = {}
    for k in RECALL_AT:
        texts = similarity.topk(min(k, similarity.shape[1]), dim=1).indices
        found = (owner[texts] == torch.arange(len(similarity))[:, None]).any(1)
        metrics[f"image_to_text_r@{k}"] = found.float().mean().item()
        images = similarity.topk(min(k, len(similarity)), dim=0).indices
        metrics[f"text_to_image_r@{k}"] = (images == owner).any(0).float().mean().item()
    return metrics
