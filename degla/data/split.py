"""Which rows of a table are held out for validation, and in which fold each is.

Shapes: N rows of the table.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa

from degla.compat.datasets import fingerprint
from degla.data.cached_table import cached_batches
from degla.data.sources.table import SampleTable

_FEATURES = datasets.Features({"position": datasets.Value("float64")})
_ROWS_AT_A_TIME = 1000  # images that are stored as bytes are read for their hash


def held_out_rows(table: SampleTable, fraction: float, seed: int) -> np.ndarray:
    """Return which rows are held out; all rows of an image fall on the same side.

    An image is held out if a hash of its file name, or of its bytes, falls below ``fraction``. The hashes are kept
    beside the table.

    Args:
        table: the samples.
        fraction: share of the images.
        seed: of the hash.

    Returns:
        ``(N,)`` bool.
    """
    held_out: np.ndarray = _positions(table, seed) < fraction
    return held_out


def image_folds(table: SampleTable, num_folds: int, seed: int) -> np.ndarray:
    """Return the fold of each row, for cross-validation; all rows of an image are in the same fold.

    The fold depends on the image, the number of folds and the seed alone: adding, removing or reordering rows moves no
    other image. So the folds are about equally large, not exactly.

    Args:
        table: the samples.
        num_folds: number of folds.
        seed: of the hash.

    Returns:
        ``(N,)`` int64, from 0 to ``num_folds - 1``.
    """
    return (_positions(table, seed) * num_folds).astype(np.int64)


def _positions(table: SampleTable, seed: int) -> np.ndarray:
    """Return ``(N,)`` float64 hashes of the images, in [0, 1)."""
    identity = f"validation split {fingerprint(table.dataset)} {table.image_name} {seed}"
    key = hashlib.sha256(identity.encode()).hexdigest()
    stored = cached_batches(_batches(table, seed), _FEATURES, table.cache_dir, key)
    positions: np.ndarray = stored.data.column("position").to_numpy()
    return positions


def _batches(table: SampleTable, seed: int) -> Iterator[pa.Table]:
    images = table.reading(())
    for start in range(0, len(table), _ROWS_AT_A_TIME):
        keys = images.image_keys(start, min(start + _ROWS_AT_A_TIME, len(table)))
        positions = [uniform_hash(_folder_and_file(key), seed) for key in keys]
        yield pa.Table.from_arrays([pa.array(positions, pa.float64())], schema=_FEATURES.arrow_schema)


def _folder_and_file(key: str) -> str:
    """Return the last two parts of a path, so that the validation split stays the same when the data move."""
    return "/".join(Path(key).parts[-2:])


def uniform_hash(key: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on the image and the seed alone.

    Args:
        key: of the image.
        seed: of the run.
    """
    return int(hashlib.sha1(f"{seed}:{key}".encode(), usedforsecurity=False).hexdigest()[:12], 16) / 16**12
