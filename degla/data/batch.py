"""The batch that a DataLoader yields.

Shapes: B samples, K negatives per sample, L tokens, D embedding.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from degla.data.schema import Negative, Problem, Sample


class Chunk(NamedTuple):
    """A range of samples that are encoded together; the loss still sees the whole batch."""

    start: int
    stop: int
    packed: Any  # degla.models.PackedTexts of the captions, then of the negatives; None: use the batch's tokens


class Batch(NamedTuple):
    """Images, tokens and texts of the samples of one step.

    L is the longest text of the batch, or the context length where the text tower needs all positions. K is the
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
