"""Features by key, in memory and on disk."""

import json
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from degla.artifacts import atomic_write

_ROWS_PER_FILE = 2048  # rows that a kill can lose

Block = tuple[list[str], Tensor]  # keys and their ``(N, D)`` features


class FeatureTable:
    """Rows of features by key; new rows are written to disk a few thousand at a time.

    Args:
        folder: where files are read from and written to; None keeps the rows in memory only.
        name: start of the file names, such as ``images``.
    """

    def __init__(self, folder: Path | None, name: str):
        self.folder = folder
        self.name = name
        self._rows: dict[str, int] = {}
        self._chunks: list[Tensor] = []
        self._appended: list[Block] = []  # since the last flush
        self._num_unsaved = 0
        for path in sorted(folder.glob(f"{name}-*.safetensors")) if folder else ():
            with safetensors.safe_open(path, "pt") as file:
                self.hold(json.loads(file.metadata()["keys"]), file.get_tensor("features"))

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, keys: Iterable[str]) -> Tensor:
        if len(self._chunks) > 1:
            self._chunks = [torch.cat(self._chunks)]
        return self._chunks[0][[self._rows[key] for key in keys]]

    def append(self, keys: list[str], features: Tensor) -> None:
        """Add rows that this process has encoded.

        Args:
            keys: one for each row.
            features: ``(N, D)`` float32.
        """
        self.hold(keys, features)
        self._appended.append((keys, features))
        self._num_unsaved += len(keys)
        if self._num_unsaved >= _ROWS_PER_FILE:
            self._save()

    def flush(self) -> list[Block]:
        """Write what is not on disk yet, and return what was appended since the last flush.

        Returns:
            Keys and ``(N, D)`` features, block by block.
        """
        self._save()
        appended, self._appended = self._appended, []
        return appended

    def hold(self, keys: Sequence[str], features: Tensor) -> None:
        """Add rows that are on disk already, or that another process writes.

        Args:
            keys: one for each row.
            features: ``(N, D)`` float32.
        """
        start = sum(map(len, self._chunks))
        self._chunks.append(features)
        self._rows.update((key, start + i) for i, key in enumerate(keys))

    def _save(self) -> None:
        rows: list[Block] = []
        count = 0
        for keys, features in reversed(self._appended):
            if count == self._num_unsaved:
                break
            rows.append((keys, features))
            count += len(keys)
        self._num_unsaved = 0
        if self.folder is None or not rows:
            return
        path = self.folder / f"{self.name}-{uuid.uuid4().hex}.safetensors"
        metadata = {"keys": json.dumps([key for keys, _ in rows for key in keys])}
        with atomic_write(path) as partial:
            save_file({"features": torch.cat([features for _, features in rows])}, partial, metadata=metadata)
