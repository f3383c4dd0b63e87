"""Texts without padding and without repetition: each distinct beginning of a text is stored once.

In a causal tower the state at a position depends only on the tokens up to it. So texts with the same beginning (a
caption and its negatives, or any two captions that start with "a man in") share the states of that beginning. Positions
after a text's end are not needed at all, and equal texts are encoded once.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from degla.models.prefix_tree import PrefixTree, prefix_tree

_NUM_GROUPS = 4  # attention is padded to the longest text of a group, but every group costs a call
_GROUP_SIZE = 64  # fewer texts than this do not justify a separate call


class PackedTexts(NamedTuple):
    """The states that a causal text tower computes for M texts: T states, R distinct texts among the M.

    The R texts are sorted by length and split into groups. For attention a group is padded to its longest text;
    everything else runs on the T states. Attention over the prefix tree needs no groups, but the features of words do.
    """

    tokens: Tensor  # (T,) int64 token id of each state
    positions: Tensor  # (T,) int64 position of the token in its text
    groups: tuple[Tensor, ...]  # each (R_g, L_g) int64: index of the state at each position of each text; 0 is padding
    source: Tensor  # (T,) int64 index of each state in the concatenated, flattened groups
    lengths: Tensor  # (R,) int64 tokens of each text
    last: Tensor  # (R,) int64 index of the state at which each text is read
    texts: Tensor  # (M,) int64 index of each of the M texts among the R
    tree: PrefixTree | None = None  # where attention follows the tree; the R texts are then in its order

    def to(self, device: torch.device | str) -> "PackedTexts":
        """Return the texts with all tensors on ``device``; copies to a GPU may still run when this method returns."""
        non_blocking = torch.device(device).type != "cpu"  # a copy to the CPU must have ended before it is read
        moved: PackedTexts = _moved(self, device, non_blocking)
        return moved


def _moved(value: Any, device: torch.device | str, non_blocking: bool) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=non_blocking)
    if value is None:
        return None
    items = [_moved(item, device, non_blocking) for item in value]
    return tuple(items) if type(value) is tuple else type(value)(*items)  # a NamedTuple takes its fields one by one


def pack(tokens: Tensor, lengths: Tensor, with_tree: bool = False) -> PackedTexts:
    """Find the beginnings that texts have in common.

    Sorting brings texts with a common beginning together: whatever a text shares with any earlier text, it shares with
    the one directly before it. One comparison of neighbours is therefore enough; a tree of prefixes would need a Python
    loop over all tokens.

    Args:
        tokens: ``(M, L)`` int64, M at least 1.
        lengths: ``(M,)`` int64, tokens of each text up to and including the one at which it is read.
        with_tree: return the masks of the prefix tree too. The distinct texts are then in the order of the tree and not
            sorted by length, so that texts which follow each other read the same states.

    Returns:
        Tensors on the CPU, whatever the device of the arguments. Moving the arguments waits for their device.
    """
    ids, sizes = tokens.cpu().numpy(), lengths.cpu().numpy()
    ids = ids[:, : sizes.max()]
    offsets = np.arange(ids.shape[1])
    ids = np.where(offsets < sizes[:, None], ids, -1)  # mask padding so that it does not affect deduplication
    sorting = np.lexsort(ids.T[::-1])
    ids, sizes = ids[sorting], sizes[sorting]
    differs = ids[1:] != ids[:-1]
    distinct = np.concatenate([[True], differs.any(1)])
    texts = np.empty(len(sorting), dtype=np.int64)
    texts[sorting] = distinct.cumsum() - 1
    first_new = np.concatenate([[0], differs.argmax(1)])[distinct]  # where a text departs from the one before it
    ids, sizes = ids[distinct], sizes[distinct]
    is_new = (offsets >= first_new[:, None]) & (offsets < sizes[:, None])
    numbers = np.where(is_new, is_new.cumsum().reshape(is_new.shape) - 1, 0)
    states = np.where(offsets < sizes[:, None], np.maximum.accumulate(numbers, axis=0), 0)

    order = np.arange(len(sizes)) if with_tree else np.argsort(sizes, kind="stable")
    source = np.empty(is_new.sum(), dtype=np.int64)
    groups, start = [], 0
    for rows in np.array_split(order, min(_NUM_GROUPS, -(-len(order) // _GROUP_SIZE))):
        longest = sizes[rows].max()
        group = states[rows, :longest]
        inside = offsets[:longest] < sizes[rows, None]
        source[group[inside]] = start + np.flatnonzero(inside)
        groups.append(torch.from_numpy(group))
        start += group.size
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    last = states[order, sizes[order] - 1]
    return PackedTexts(
        tokens=torch.from_numpy(ids[is_new]),
        positions=torch.from_numpy(np.broadcast_to(offsets, is_new.shape)[is_new]),
        groups=tuple(groups),
        source=torch.from_numpy(source),
        lengths=torch.from_numpy(sizes[order]),
        last=torch.from_numpy(last),
        texts=torch.from_numpy(rank[texts]),
        tree=prefix_tree(_ends(is_new, first_new), last) if with_tree else None,
    )


def _ends(is_new: np.ndarray, first_new: np.ndarray) -> np.ndarray:
    """Return ``(T,)``: one more than the number of the last state that continues each state.

    A later text leaves a state behind where it departs from the text before it at the state's position or before that.
    The first text that does so begins with the first number that does not continue the state.

    Args:
        is_new: ``(R, L)`` bool, True where a text adds a state; states are numbered along the rows.
        first_new: ``(R,)``, the position at which each text departs from the one before it.
    """
    counts = is_new.sum(1)
    starts = (counts.cumsum() - counts)[:, None]
    has_left = np.arange(is_new.shape[1]) >= first_new[:, None]
    first_outside = np.where(has_left, starts, counts.sum())
    nearest = np.minimum.accumulate(first_outside[::-1], axis=0)[::-1]
    after = np.concatenate([nearest[1:], np.full_like(nearest[:1], counts.sum())])
    ends: np.ndarray = after[is_new]
    return ends
