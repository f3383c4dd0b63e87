"""The teacher's features of a table's texts, cached on disk across epochs and runs."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class TextFeatures:
    """A file with one float32 vector for each text of a ``TokenTable``, filled as texts are encoded.

    The file is sparse and memory-mapped, so processes of one machine share what each of them writes. A vector that
    was not written completely does not have unit norm; it counts as missing.

    Args:
        path: the file; created if it does not exist.
        num_texts: number of vectors.
        dim: D, their length.
    """

    def __init__(self, path: Path, num_texts: int, dim: int):
        self.path = path
        self.shape = (num_texts, dim)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            if os.fstat(file.fileno()).st_size != num_texts * dim * 4:
                file.truncate(num_texts * dim * 4)
        self._memory_map: np.memmap[Any, Any] | None = None

    def read(self, numbers: np.ndarray) -> Tensor | None:
        """Read features by text number.

        Args:
            numbers: ``(...)`` int64; negative numbers give zeros.

        Returns:
            ``(..., D)`` float32, or None if a feature is missing.
        """
        features = torch.from_numpy(self._mapped()[np.maximum(numbers, 0)])
        is_text = torch.from_numpy(numbers >= 0)
        if not ((features.norm(dim=-1) - 1).abs() < 1e-3)[is_text].all():
            return None
        return features.masked_fill(~is_text[..., None], 0)

    def write(self, numbers: np.ndarray, features: Tensor) -> None:
        """Store features by text number.

        Args:
            numbers: ``(...)`` int64; features of negative numbers are ignored.
            features: ``(..., D)``, unit norm.
        """
        is_text = numbers >= 0
        self._mapped()[numbers[is_text]] = features.detach().float().cpu().numpy()[is_text]

    def _mapped(self) -> "np.memmap[Any, Any]":
        if self._memory_map is None:  # each process maps the file for itself
            self._memory_map = np.memmap(self.path, np.float32, "r+", shape=self.shape)
        return self._memory_map

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_memory_map": None}
