"""Features on disk, in blocks of a few thousand rows, so that a killed program loses little.

Every block is one safetensors file that names its images and its model and has a checksum. Imports no torch.

Shapes: N rows, D embedding.
"""

import hashlib
import json
import logging
import uuid
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
from safetensors.numpy import save_file

from degla.artifacts import PARTIAL_SUFFIX, atomic_write
from degla.image_index.manifest import ImageFile

log = logging.getLogger(__name__)

ROWS = 4096  # of a full block
_PATTERN = "features-*.safetensors"
_FORMAT = "1"


class Block(NamedTuple):
    """Images with their features."""

    path: Path
    fingerprint: str  # of the model
    files: list[ImageFile]
    features: np.ndarray  # (N, D) float32, unit norm


def read_blocks(store: Path) -> list[Block]:
    """Read all blocks; a damaged one is named and deleted, so that its images are embedded again.

    Args:
        store: folder of the index.
    """
    blocks = []
    for path in sorted(store.glob(_PATTERN)):
        try:
            blocks.append(_read(path))
        except _DamagedBlock as error:
            log.warning(f"{path} is damaged ({error}): it is deleted, and its images are embedded again")
            path.unlink()
    return blocks


def write_block(store: Path, fingerprint: str, files: Sequence[ImageFile], features: np.ndarray) -> Block:
    """Write a block and flush it to the disk.

    Args:
        store: folder of the index.
        fingerprint: of the model.
        files: N images.
        features: ``(N, D)`` float32.
    """
    path = store / _PATTERN.replace("*", uuid.uuid4().hex)
    metadata = {
        "format": _FORMAT,
        "fingerprint": fingerprint,
        "files": json.dumps(files),
        "checksum": _checksum(fingerprint, files, features),
    }
    with atomic_write(path, flush_to_disk=True) as partial:
        save_file({"features": np.ascontiguousarray(features)}, partial, metadata=metadata)
    return Block(path, fingerprint, list(files), features)


def compact(store: Path, blocks: Sequence[Block], wanted: Collection[ImageFile]) -> list[Block]:
    """Rewrite the blocks that are not full of wanted rows; full ones stay as they are.

    Args:
        store: folder of the index.
        blocks: those of the index.
        wanted: the images to keep.

    Returns:
        The blocks of the index from now on; the others can be deleted once the manifest is written.
    """
    full: list[Block] = []
    others: list[Block] = []
    missing = set(wanted)
    for block in blocks:
        # A kill between writing and deleting leaves rows twice.
        if len(block.files) == ROWS and missing.issuperset(block.files):
            full.append(block)
            missing.difference_update(block.files)
        else:
            others.append(block)
    if len(others) == 1 and len(others[0].files) < ROWS and missing == set(others[0].files):
        return [*full, *others]
    rest = select(others, missing)
    written = [
        write_block(store, blocks[0].fingerprint, rest.files[start : start + ROWS], rest.features[start : start + ROWS])
        for start in range(0, len(rest.files), ROWS)
    ]
    return [*full, *written]


def select(blocks: Iterable[Block], wanted: Collection[ImageFile]) -> Block:
    """Return the wanted rows of some blocks, each once, as one block in memory.

    Args:
        blocks: where to look.
        wanted: the images to keep.
    """
    files: dict[ImageFile, None] = {}
    parts = []
    for block in blocks:
        rows = [i for i, file in enumerate(block.files) if file in wanted and file not in files]
        files.update((block.files[i], None) for i in rows)
        parts.append(block.features[rows])
    features = np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
    return Block(Path(), "", list(files), features)


def delete_blocks(store: Path, keep: Collection[Path] = ()) -> None:
    """Delete blocks and what a kill has left half written.

    Args:
        store: folder of the index.
        keep: files to keep.
    """
    for path in (*store.glob(_PATTERN), *store.glob(f".*{PARTIAL_SUFFIX}")):
        if path not in keep:
            path.unlink(missing_ok=True)


class _DamagedBlock(Exception):
    """A file whose content differs from what was written; the message says how."""


def _read(path: Path) -> Block:
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            features = np.asarray(file.get_tensor("features"))
        files = [ImageFile(*file) for file in json.loads(metadata["files"])]
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise _DamagedBlock(f"it cannot be read: {error}") from error
    fingerprint = metadata.get("fingerprint", "")
    if metadata.get("format") != _FORMAT or metadata.get("checksum") != _checksum(fingerprint, files, features):
        raise _DamagedBlock("its content does not have the checksum that it was written with")
    return Block(path, fingerprint, files, features)


def _checksum(fingerprint: str, files: Sequence[ImageFile], features: np.ndarray) -> str:
    digest = hashlib.sha256(json.dumps([fingerprint, files, features.shape, str(features.dtype)]).encode())
    digest.update(np.ascontiguousarray(features).data)
    return digest.hexdigest()
