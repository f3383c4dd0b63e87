"""The prefix tree of packed texts as intervals, which FlexAttention takes as a mask of blocks.

States are numbered in preorder: a state comes before the states that continue it, and those follow it without a gap. So
state q continues state k exactly where ``k <= q < ends[k]``. All arrays are made on the CPU, by the process that packs
the texts, so that a step on a GPU neither sorts nor waits.

Shapes: T states, R distinct texts, N queries (T or R), Q query blocks, K key blocks.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BLOCK_SIZE = 128  # queries, and keys, of a block; FlexAttention's default


class IntervalMask(NamedTuple):
    """A mask in which key k is read by the queries from ``readers[0, k]`` to ``readers[1, k] - 1``.

    The other fields list the blocks of the mask that are not empty. In the fields' first axis, 0 stands for blocks that
    are masked in part and 1 for blocks without any masked pair. The lists end with blocks that are not read.
    """

    readers: Tensor  # (2, T) int32
    num_keys: Tensor  # (2, Q) int32, key blocks that each query block reads
    keys: Tensor  # (2, Q, K) int32, these key blocks, in ascending order
    num_queries: Tensor  # (2, K) int32, query blocks that read each key block
    queries: Tensor  # (2, K, Q) int32, these query blocks, in ascending order


class PrefixTree(NamedTuple):
    """Which states the attention of a causal text tower reads."""

    states: IntervalMask  # N = T: every state reads the states that it continues, and itself
    texts: IntervalMask  # N = R: the same for the states at which texts are read


def prefix_tree(ends: np.ndarray, last: np.ndarray) -> PrefixTree:
    """Return the masks of a prefix tree.

    Args:
        ends: ``(T,)``, one more than the number of the last state that continues each state.
        last: ``(R,)`` ascending, the states at which texts are read.
    """
    keys = np.arange(len(ends))
    return PrefixTree(
        states=_interval_mask(keys, ends, len(ends)),
        texts=_interval_mask(np.searchsorted(last, keys), np.searchsorted(last, ends), len(last)),
    )


def _interval_mask(first: np.ndarray, end: np.ndarray, num_queries: int) -> IntervalMask:
    shape = -(-len(first) // BLOCK_SIZE), -(-num_queries // BLOCK_SIZE)
    is_read = first < end
    read_by_some = _count_keys(first // BLOCK_SIZE, -(-end // BLOCK_SIZE), is_read, shape)
    read_by_all = _count_keys(-(-first // BLOCK_SIZE), end // BLOCK_SIZE, is_read, shape)  # all queries of the block
    is_full = read_by_all == BLOCK_SIZE
    blocks = np.stack([(read_by_some > 0) & ~is_full, is_full])
    num_queries_read, queries = _listed(blocks)
    num_keys_read, keys = _listed(blocks.transpose(0, 2, 1))
    return IntervalMask(
        readers=torch.from_numpy(np.stack([first, end]).astype(np.int32)),
        num_keys=num_keys_read,
        keys=keys,
        num_queries=num_queries_read,
        queries=queries,
    )


def _count_keys(first: np.ndarray, end: np.ndarray, is_read: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return ``(K, Q)``: how many keys of a key block are read by a query block.

    Args:
        first: ``(T,)``, the first query block that reads each key.
        end: ``(T,)``, one more than the last.
        is_read: ``(T,)`` bool, whether a key is read at all.
        shape: K and Q.
    """
    key_blocks = np.arange(len(first)) // BLOCK_SIZE
    chosen = is_read & (first < end)
    width = shape[1] + 1
    changes = [
        np.bincount(key_blocks[chosen] * width + border[chosen], minlength=shape[0] * width) for border in (first, end)
    ]
    counted: np.ndarray = (changes[0] - changes[1]).reshape(shape[0], width).cumsum(1)[:, :-1]
    return counted


def _listed(blocks: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return for each row of a ``(2, rows, columns)`` bool array how many columns are True, and these columns first."""
    columns = np.argsort(~blocks, axis=-1, kind="stable").astype(np.int32)
    return torch.from_numpy(blocks.sum(-1, dtype=np.int32)), torch.from_numpy(columns)
