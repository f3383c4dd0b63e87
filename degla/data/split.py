"""Which rows of a table are held out for validation.

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
    identity = f"validation split {fingerprint(table.dataset)} {table.image_name} {seed}"
    key = hashlib.sha256(identity.encode()).hexdigest()
    stored = cached_batches(_batches(table, seed), _FEATURES, table.cache_dir, key)
    held_out: np.ndarray = stored.data.column("position").to_numpy() < fraction
    return held_out


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
