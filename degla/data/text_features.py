"""The teacher's features of the texts of a table, kept on disk between epochs and runs."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class TextFeatures:
    """A file of float32 rows, one for each text of a ``TokenTable``, filled as texts are met.

    The file is sparse and mapped into memory, so processes of one machine share what each of them writes.
    A row that was never written, or not to its end, does not have unit norm; it counts as missing.

    Args:
        path: of the file; made if it is not there.
        num_texts: rows.
        dim: D.
    """

    def __init__(self, path: Path, num_texts: int, dim: int):
        self.path = path
        self.shape = (num_texts, dim)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            if os.fstat(file.fileno()).st_size != num_texts * dim * 4:
                file.truncate(num_texts * dim * 4)
        self._rows: np.memmap | None = None

    def read(self, numbers: np.ndarray) -> Tensor | None:
        """``(..., D)`` float32 of texts by number, negative numbers as zeros; None if one is missing."""
        rows = torch.from_numpy(self._mapped()[np.maximum(numbers, 0)])
        wanted = torch.from_numpy(numbers >= 0)
        if not ((rows.norm(dim=-1) - 1).abs() < 1e-3)[wanted].all():
            return None
        return rows.masked_fill(~wanted[..., None], 0)

    def write(self, numbers: np.ndarray, features: Tensor) -> None:
        """Keep ``(..., D)`` features, unit norm, of texts by number; negative numbers are left out."""
        wanted = numbers >= 0
        self._mapped()[numbers[wanted]] = features.detach().float().cpu().numpy()[wanted]

    def _mapped(self) -> np.memmap:
        if self._rows is None:  # each process maps for itself
            self._rows = np.memmap(self.path, np.float32, "r+", shape=self.shape)
        return self._rows

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_rows": None}
