"""Which rows of a table show the same image.

Shapes: N rows of the table, P rows of a part of it.
"""

import hashlib
from collections.abc import Iterator

import datasets
import numpy as np
import pyarrow as pa

from degla.compat.datasets import fingerprint
from degla.data.cached_table import cached_batches
from degla.data.identity import image_id
from degla.data.sources.table import SampleTable

_FEATURES = datasets.Features({"image_id": datasets.Value("int64")})
_ROWS_AT_A_TIME = 1000


def table_image_ids(table: SampleTable) -> np.ndarray:
    """Return the ``(N,)`` int64 image ids of a table's rows.

    They are kept beside the table, because images that are stored as bytes have to be read for them.
    """
    identity = f"image ids {fingerprint(table.dataset)} {table.image_name}"
    key = hashlib.sha256(identity.encode()).hexdigest()
    stored = cached_batches(_batches(table), _FEATURES, table.cache_dir, key)
    ids: np.ndarray = stored.data.column("image_id").to_numpy()
    return ids


def _batches(table: SampleTable) -> Iterator[pa.Table]:
    images = table.reading(())
    for start in range(0, len(table), _ROWS_AT_A_TIME):
        keys = images.image_keys(start, min(start + _ROWS_AT_A_TIME, len(table)))
        yield pa.Table.from_arrays([pa.array(map(image_id, keys), pa.int64())], schema=_FEATURES.arrow_schema)


class RowsOfImages:
    """Finds the rows of a table that show the same image.

    Args:
        image_ids: ``(N,)`` of all rows of the table.
        rows: ``(P,)`` rows that may be found.
    """

    def __init__(self, image_ids: np.ndarray, rows: np.ndarray):
        by_image = np.argsort(image_ids[rows], kind="stable")
        self.image_ids = image_ids
        self._rows = rows[by_image]
        self._sorted_ids = image_ids[self._rows]

    def others(self, row: int) -> list[int]:
        """Return the other rows of a row's image, in the order of the table."""
        start, stop = np.searchsorted(self._sorted_ids, [self.image_ids[row], self.image_ids[row] + 1])
        return [int(other) for other in self._rows[start:stop] if other != row]

    def has_several(self) -> bool:
        """Return whether any image has more than one row."""
        return bool((self._sorted_ids[1:] == self._sorted_ids[:-1]).any())
