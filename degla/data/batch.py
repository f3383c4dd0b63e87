"""The batch that a DataLoader yields.

Shapes: B samples, K negatives per sample, S slots of a further text, L tokens, D embedding.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from degla.data.schema import Negative, Problem, Sample


class Chunk(NamedTuple):
    """A range of samples that are encoded together; the loss still sees the whole batch."""

    start: int
    stop: int
    packed: Any  # degla.models.PackedTexts of captions, negatives, further texts; None: use the batch's tokens


class TextSlots(NamedTuple):
    """Further texts of each sample, such as its paraphrase."""

    tokens: Tensor  # (B, S, L) int64, the tokens of an empty text where the mask is False
    mask: Tensor  # (B, S) bool, True where a text exists


class Batch(NamedTuple):
    """Images, tokens and texts of the samples of one step.

    L is the longest text of the batch, or the context length where the text tower needs all positions. K and S are the
    same in every batch of a run.
    """

    images: Tensor  # (B, 3, H, W) uint8
    captions: Tensor  # (B, L) int64
    negatives: Tensor  # (B, K, L) int64
    negative_mask: Tensor  # (B, K) bool, True where a negative exists
    samples: list[Sample]  # B, without image bytes and tokens; `image_path` is the sample's `image_key`
    slots: list[list[Negative | None]]  # B x K, the negatives as texts; None where the mask is False
    problems: list[Problem]
    chunks: Sequence[Chunk] = ()  # in order; empty: the whole batch at once
    text_numbers: np.ndarray | None = None  # (B, 1 + K) int64 in the token table, -1 where there is no negative
    teacher_texts: Tensor | None = None  # (B, 1 + K, D) float32 if the teacher's features of all texts are cached
    # `units` and `foils` (S of each), `paraphrases` and `second_captions` (S = 1), in this order; those that are needed
    extra_texts: Mapping[str, TextSlots] = {}
    negative_images: Tensor | None = None  # (B, 3, H, W) uint8, zeros where the mask is False
    negative_image_mask: Tensor | None = None  # (B,) bool, True where a negative image exists
    image_ids: Tensor | None = None  # (B,) int64, equal for equal images, in every process and run
    text_ids: Tensor | None = None  # (B,) int64, equal for captions that differ in case and spaces only

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Return the batch with all tensors on ``device``; texts and samples are the same objects.

        Lightning calls this method instead of walking through every sample.

        Args:
            device: of the model.
            non_blocking: whether copies from pinned memory may still run when this method returns.
        """
        return self.map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Return the batch with all tensors in pinned memory; ``DataLoader(pin_memory=True)`` calls this method."""
        return self.map_tensors(lambda tensor: tensor.pin_memory())

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with ``function`` applied to every tensor; texts and samples are the same objects.

        Args:
            function: takes and returns a tensor of any shape ``(...)``.
        """
        return self._replace(**{name: _map_tensors(getattr(self, name), function) for name in _FIELDS_WITH_TENSORS})


# The other fields hold texts, whose number grows with the batch.
_FIELDS_WITH_TENSORS = tuple(
    name for name in Batch._fields if name not in ("samples", "slots", "problems", "text_numbers")
)


def _map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to the tensors in tuples, lists and dictionaries; other values stay as they are."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: _map_tensors(item, function) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [_map_tensors(item, function) for item in value]
        is_named = type(value) not in (tuple, list)  # a NamedTuple takes its fields one by one
        return type(value)(*items) if is_named else type(value)(items)
    return value
