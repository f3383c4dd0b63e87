"""Validation metrics: retrieval, and the choice of a caption among its own negatives.

Both are ``torchmetrics.Metric`` classes: ``update`` takes a batch on each rank, ``compute`` returns the same fractions
in [0, 1] on every rank.

Shapes: B samples of a batch, I images, T texts, K negatives a sample, D embedding size, N negative types.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from degla.data.batch import Batch
from degla.data.schema import Negative
from degla.losses import Features

RECALL_AT = (1, 5, 10)  # the cut-offs K of recall@K


class RetrievalRecall(Metric):
    """Recall@1, 5 and 10 from images to texts and from texts to images, over all validation samples.

    A sample's text belongs to its image; samples with the same image key share one image. For a query image any of its
    texts counts. The states are the embeddings of all samples, which ``compute`` gathers: a query competes with the
    samples of all ranks.
    """

    full_state_update = False

    image_features: list[Tensor]
    text_features: list[Tensor]
    image_ids: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("image_features", "text_features", "image_ids"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, image_features: Tensor, text_features: Tensor, image_keys: Sequence[str]) -> None:
        """Add a batch.

        Args:
            image_features: ``(B, D)``, unit norm.
            text_features: ``(B, D)``, unit norm.
            image_keys: B keys; samples of one image have the same key.
        """
        self.image_features.append(image_features)
        self.text_features.append(text_features)
        self.image_ids.append(torch.tensor([_key_number(key) for key in image_keys], device=image_features.device))

    def compute(self) -> dict[str, float]:
        """Return ``image_to_text_r@K`` and ``text_to_image_r@K``."""
        images, texts, ids = (
            dim_zero_cat(state).cpu() for state in (self.image_features, self.text_features, self.image_ids)
        )
        first_sample: dict[int, int] = {}
        for sample, image_id in enumerate(ids.tolist()):
            first_sample.setdefault(image_id, sample)
        number = {image_id: i for i, image_id in enumerate(first_sample)}
        image_of_text = torch.tensor([number[image_id] for image_id in ids.tolist()])
        return recalls(images[list(first_sample.values())] @ texts.T, image_of_text)


def _key_number(key: str) -> int:
    """Return 63 bits of a key's hash; ranks can gather numbers as tensors, but not strings."""
    return int(hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest()[:16], 16) >> 1


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


class CaptionChoice(Metric):
    """Share of captions that score higher than their own negatives.

    A tie counts as wrong, so an encoder with one embedding for all texts scores 0. The states are counts, so
    the ranks only add them up.

    Args:
        negative_types: all types of negatives that can occur.
    """

    full_state_update = False

    num_correct: Tensor
    num_samples: Tensor
    num_correct_pairs: Tensor
    num_pairs: Tensor

    def __init__(self, negative_types: Sequence[str]) -> None:
        super().__init__()
        self.negative_types = sorted(set(negative_types))
        self._type_number = {name: number for number, name in enumerate(self.negative_types)}
        for name in ("num_correct", "num_samples"):
            self.add_state(name, default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        for name in ("num_correct_pairs", "num_pairs"):
            counts = torch.zeros(len(self.negative_types), dtype=torch.int64)
            self.add_state(name, default=counts, dist_reduce_fx="sum")

    def update(
        self,
        image_features: Tensor,
        text_features: Tensor,
        negative_features: Tensor,
        slots: Sequence[Sequence[Negative | None]],
    ) -> None:
        """Add a batch; samples without negatives do not count.

        Args:
            image_features: ``(B, D)``, unit norm.
            text_features: ``(B, D)``, unit norm.
            negative_features: ``(B, K, D)``, unit norm.
            slots: B lists of the K negatives; None where a slot is empty.

        Raises:
            ValueError: a negative has a type that was not given to the constructor.
        """
        captions = (image_features * text_features).sum(-1, keepdim=True)
        negatives = torch.einsum("bd,bkd->bk", image_features, negative_features)
        is_higher = (captions > negatives).tolist()
        for sample, sample_slots in enumerate(slots):
            outcomes = [
                (negative.type, is_higher[sample][k]) for k, negative in enumerate(sample_slots) if negative is not None
            ]
            if not outcomes:
                continue
            self.num_samples += 1
            self.num_correct += all(higher for _, higher in outcomes)
            for type_, higher in outcomes:
                if type_ not in self._type_number:
                    raise ValueError(f"negative type {type_!r} must be one of {', '.join(self.negative_types)}")
                self.num_pairs[self._type_number[type_]] += 1
                self.num_correct_pairs[self._type_number[type_]] += higher

    def compute(self) -> dict[str, float]:
        """Return the shares for the types that occurred; empty where no sample has a negative.

        Returns:
            ``caption_choice``, the share of captions that score higher than every one of their own negatives, and
            ``caption_choice/<type>``, the share of pairs of a caption and a negative of that type.
        """
        if not self.num_samples:
            return {}
        metrics = {"caption_choice": self.num_correct.item() / self.num_samples.item()}
        counts = zip(self.negative_types, self.num_correct_pairs.tolist(), self.num_pairs.tolist(), strict=True)
        return metrics | {f"caption_choice/{name}": correct / pairs for name, correct, pairs in counts if pairs}


def add_batch(retrieval: RetrievalRecall, caption_choice: CaptionChoice, features: Features, batch: Batch) -> None:
    """Add a batch to both metrics.

    Args:
        retrieval: is updated.
        caption_choice: is updated.
        features: of the batch, such as ``(B, D)`` images.
        batch: the samples that were encoded.
    """
    retrieval.update(
        image_features=features.image,
        text_features=features.text,
        image_keys=[sample.image_path or sample.id for sample in batch.samples],
    )
    caption_choice.update(
        image_features=features.image,
        text_features=features.text,
        negative_features=features.negatives,
        slots=batch.slots,
    )


def validation_values(retrieval: RetrievalRecall, caption_choice: CaptionChoice) -> dict[str, float]:
    """Return ``val/<name>`` of both metrics over all ranks, and reset them.

    Args:
        retrieval: is reset.
        caption_choice: is reset.
    """
    values = retrieval.compute() | caption_choice.compute()
    retrieval.reset()
    caption_choice.reset()
    return {f"val/{name}": value for name, value in values.items()}
