"""Rows and orders of very large tables, computed where they are needed in place of being stored.

Shapes: P places of a pass.
"""

import hashlib
from typing import Any, overload

import numpy as np

STORED_ROWS = 2**27  # up to so many rows orders are stored: runs with stored orders must keep them

_ROUNDS = 8
# Odd constants of SplitMix64's output function (Steele, Lea and Flood 2014).
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class RowsExcept:
    """The rows of a table without some of them; its memory depends on those that are left out alone.

    Args:
        num_rows: rows of the table.
        left_out: ``(M,)`` int64 rows that are left out, in ascending order.
    """

    def __init__(self, num_rows: int, left_out: np.ndarray):
        self._length = num_rows - len(left_out)
        self._kept_before = left_out - np.arange(len(left_out))  # rows that are kept before each that is left out

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, places: int) -> int: ...

    @overload
    def __getitem__(self, places: np.ndarray | slice) -> np.ndarray: ...

    def __getitem__(self, places: int | np.ndarray | slice) -> int | np.ndarray:
        if isinstance(places, slice):
            places = np.arange(*places.indices(self._length))
        rows = places + np.searchsorted(self._kept_before, places, side="right")
        return rows if isinstance(places, np.ndarray) else int(rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.int64, copy=False)

    def tolist(self) -> list[int]:
        """Return all rows, for those who need them at once."""
        rows: list[int] = self[:].tolist()
        return rows


def permuted(places: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Return where a random permutation of the numbers below ``size`` moves some of them.

    It is a Feistel network on the bits of the number: each round changes one half of the bits by a hash of the other
    half, which can be undone, so different numbers stay different. A result beyond ``size`` is permuted again until it
    is below it, on average once at most (cycle walking; Black and Rogaway 2002).

    Args:
        places: ``(P,)`` int64 numbers below ``size``.
        size: of the permutation.
        seed: of the run.
        epoch: number of the pass; each has its own permutation.

    Returns:
        ``(P,)`` int64.
    """
    keys = np.frombuffer(hashlib.sha512(f"{seed} {epoch}".encode()).digest(), dtype="<u8").astype(np.uint64)
    num_bits = max(2, (size - 1).bit_length())
    moved = _permuted_bits(places.astype(np.uint64), num_bits, keys)
    while len(beyond := np.flatnonzero(moved >= size)):
        moved[beyond] = _permuted_bits(moved[beyond], num_bits, keys)
    return moved.astype(np.int64)


def _permuted_bits(numbers: np.ndarray, num_bits: int, keys: np.ndarray) -> np.ndarray:
    low_bits = np.uint64(num_bits // 2)
    low_mask = np.uint64(2 ** (num_bits // 2) - 1)
    high_mask = np.uint64(2 ** (num_bits - num_bits // 2) - 1)
    low, high = numbers & low_mask, numbers >> low_bits
    for number in range(_ROUNDS):
        if number % 2:
            high ^= _hashed(low, keys[number]) & high_mask
        else:
            low ^= _hashed(high, keys[number]) & low_mask
    permuted_numbers: np.ndarray = (high << low_bits) | low
    return permuted_numbers


def _hashed(numbers: np.ndarray, key: np.uint64) -> np.ndarray:
    numbers = numbers + key
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _FACTORS[0]
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _FACTORS[1]
    hashed: np.ndarray = numbers ^ (numbers >> np.uint64(31))
    return hashed
