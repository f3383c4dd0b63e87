"""Features by key, in memory and on disk; every file has a checksum and says what wrote it."""

import contextlib
import functools
import hashlib
import json
import logging
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from degla.artifacts import atomic_write, provenance

log = logging.getLogger(__name__)

FORMAT = "2"  # the first with a checksum
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
            try:
                self.hold(*_read(path))
            except _DamagedFile as error:
                _set_aside(path, str(error))

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
        try:
            _write(path, [key for keys, _ in rows for key in keys], torch.cat([features for _, features in rows]))
        except (OSError, safetensors.SafetensorError) as error:  # safetensors has an error of its own for a full disk
            reason = getattr(error, "strerror", None) or error
            log.warning(f"cache_dir: {path} cannot be written ({reason}); features are kept in memory only")
            self.folder = None


class _DamagedFile(Exception):
    """A file whose content differs from what was written; the message says how."""


def _write(path: Path, keys: list[str], features: Tensor) -> None:
    metadata = {
        "format": FORMAT,
        "keys": json.dumps(keys),
        "checksum": _checksum(path.parent.name, keys, features),
        "provenance": json.dumps(_provenance()),
    }
    # Without a flush to disk, a power cut can leave a file of the right name and length that holds zeros.
    with atomic_write(path, flush_to_disk=True) as partial:
        save_file({"features": features}, partial, metadata=metadata)


def _read(path: Path) -> Block:
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            keys, features = json.loads(metadata.get("keys", "null")), file.get_tensor("features")
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise _DamagedFile(f"it cannot be read ({error})") from error
    if metadata.get("format") != FORMAT:
        raise _DamagedFile("it has no checksum: an earlier version of degla wrote it")
    if metadata.get("checksum") != _checksum(path.parent.name, keys, features):
        raise _DamagedFile("its content does not have the checksum that it was written with")
    return keys, features


def _checksum(fingerprint: str, keys: list[str], features: Tensor) -> str:
    """Return a hash of the rows, of their keys, and of the model that they belong to."""
    digest = hashlib.sha256(json.dumps([fingerprint, keys, list(features.shape), str(features.dtype)]).encode())
    digest.update(features.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _set_aside(path: Path, reason: str) -> None:
    log.warning(f"cache_dir: {path} is not used: {reason}; it is set aside as {path.name}.bad and encoded again")
    # Another rank may have moved it already, or the folder may be read-only. It is not used in either case.
    with contextlib.suppress(OSError):
        path.rename(path.with_name(f"{path.name}.bad"))


@functools.cache
def _provenance() -> dict[str, str]:
    return provenance()
