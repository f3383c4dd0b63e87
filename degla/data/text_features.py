"""The teacher's features of a table's texts, cached on disk across epochs and runs."""

import json
import logging
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from degla.artifacts import atomic_write, provenance
from degla.data.cache_files import set_aside, writing

log = logging.getLogger(__name__)

_MAGIC = b"degla text features 2\n"  # 2: the first format with checksums
_HEADER = 4096  # bytes before the first vector
_CHECKSUM = 4  # bytes of a CRC-32
_SETTING = "teacher.text_cache"


class TextFeatures:
    """A file with one float32 vector for each text of a ``TokenTable``, filled as texts are encoded.

    The file is memory-mapped, so processes of one machine share what each of them writes. Behind each
    vector is its CRC-32, which is checked whenever the vector is read. So nothing has to be read at the start. A vector
    that was not written, or not completely, counts as missing and is encoded again. A header says what wrote the file.

    Args:
        path: the file; created if it does not exist. A damaged one is set aside.
        num_texts: number of vectors.
        dim: D, their length.

    Raises:
        DataError: the file cannot be written.
    """

    def __init__(self, path: Path, num_texts: int, dim: int):
        self.path = path
        self.shape = (num_texts, dim)
        with writing(path, _SETTING):
            if problem := self._problem():
                set_aside(path, _SETTING, problem)
            if not path.exists():
                self._create()
        self._rows: np.ndarray | None = None
        self._has_warned = False

    def read(self, numbers: np.ndarray) -> Tensor | None:
        """Read features by text number.

        Args:
            numbers: ``(...)`` int64; negative numbers give zeros.

        Returns:
            ``(..., D)`` float32, or None if a feature is missing.
        """
        is_text = numbers >= 0
        rows = self._mapped()[numbers[is_text]]
        vectors = np.ascontiguousarray(rows["vector"])
        if not self._are_whole(vectors, rows["checksum"]):
            return None
        features = torch.zeros(*numbers.shape, self.shape[1])
        features[torch.from_numpy(is_text)] = torch.from_numpy(vectors)
        return features

    def write(self, numbers: np.ndarray, features: Tensor) -> None:
        """Store features by text number.

        Args:
            numbers: ``(...)`` int64; features of negative numbers are ignored.
            features: ``(..., D)``, unit norm.
        """
        is_text = numbers >= 0
        vectors = np.ascontiguousarray(features.detach().float().cpu().numpy()[is_text])
        rows = self._mapped()
        rows["vector"][numbers[is_text]] = vectors
        rows["checksum"][numbers[is_text]] = [zlib.crc32(vector) for vector in vectors]

    def _are_whole(self, vectors: np.ndarray, checksums: np.ndarray) -> bool:
        differs = np.array([zlib.crc32(vector) for vector in vectors], np.uint32) != checksums
        if checksums[differs].any() and not self._has_warned:  # 0: not written yet
            self._has_warned = True
            log.warning(
                f"teacher.text_cache: {self.path} has a vector without its checksum; such vectors are encoded again"
            )
        return not bool(differs.any())

    def _mapped(self) -> np.ndarray:
        if self._rows is None:  # each process maps the file for itself
            self._rows = np.memmap(self.path, self._row_type, "r+", offset=_HEADER, shape=self.shape[:1])
        return self._rows

    @property
    def _row_type(self) -> np.dtype[Any]:
        return np.dtype([("vector", np.float32, self.shape[1]), ("checksum", np.uint32)])

    @property
    def _num_bytes(self) -> int:
        return _HEADER + self.shape[0] * self._row_type.itemsize

    def _create(self) -> None:
        with atomic_write(self.path, flush_to_disk=True) as partial, partial.open("wb") as file:
            # Reserved now, because a write to mapped memory for which the disk has no room kills the process.
            os.posix_fallocate(file.fileno(), 0, self._num_bytes)
            file.write(self._header())
            file.flush()

    def _problem(self) -> str:
        """Return why the file cannot be used; "" if it can, or if there is none."""
        if not self.path.exists():
            return ""
        with self.path.open("rb") as file:
            header = file.read(_HEADER)
        magic, content = header[: len(_MAGIC)], header[len(_MAGIC) + _CHECKSUM :]
        if magic != _MAGIC:
            return "its first bytes are not those of this format"
        if header[len(_MAGIC) :][:_CHECKSUM] != _checksum_bytes(content):
            return "its header does not have the checksum that it was written with"
        if self.path.stat().st_size != self._num_bytes:
            return f"it has {self.path.stat().st_size} bytes of {self._num_bytes}"
        return ""

    def _header(self) -> bytes:
        content = json.dumps({"num_texts": self.shape[0], "dim": self.shape[1], "provenance": provenance()})
        padded = content.encode().ljust(_HEADER - len(_MAGIC) - _CHECKSUM)
        return _MAGIC + _checksum_bytes(padded) + padded

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rows": None}


def _checksum_bytes(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(_CHECKSUM, "little")
