"""Texts without padding and without repetition: each distinct beginning of a text is stored once.

In a causal tower the state at a position depends only on the tokens up to it. So texts with the same beginning (a
caption and its negatives, or any two captions that start with "a man in") share the states of that beginning. Positions
after a text's end are not needed at all, and equal texts are encoded once.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_NUM_GROUPS = 4  # attention is padded to the longest text of a group, but every group costs a call
_GROUP_SIZE = 64  # fewer texts than this do not justify a separate call


class PackedTexts(NamedTuple):
    """The states that a causal text tower computes for M texts: T states, R distinct texts among the M.

    The R texts are sorted by length and split into groups. For attention a group is padded to its longest text;
    everything else runs on the T states.
    """

    tokens: Tensor  # (T,) int64 token id of each state
    positions: Tensor  # (T,) int64 position of the token in its text
    groups: tuple[Tensor, ...]  # each (R_g, L_g) int64: index of the state at each position of each text; 0 is padding
    source: Tensor  # (T,) int64 index of each state in the concatenated, flattened groups
    lengths: Tensor  # (R,) int64 tokens of each text
    last: Tensor  # (R,) int64 index of the state at which each text is read
    texts: Tensor  # (M,) int64 index of each of the M texts among the R

    def to(self, device: torch.device | str) -> "PackedTexts":
        """Return the texts with all tensors on ``device``."""
        return PackedTexts(
            tokens=self.tokens.to(device),
            positions=self.positions.to(device),
            groups=tuple(group.to(device) for group in self.groups),
            source=self.source.to(device),
            lengths=self.lengths.to(device),
            last=self.last.to(device),
            texts=self.texts.to(device),
        )


def pack(tokens: Tensor, lengths: Tensor) -> PackedTexts:
    """Find the beginnings that texts have in common.

    Sorting brings texts with a common beginning together: whatever a text shares with any earlier text, it shares with
    the one directly before it. One comparison of neighbours is therefore enough; a tree of prefixes would need a Python
    loop over all tokens.

    Args:
        tokens: ``(M, L)`` int64, M at least 1.
        lengths: ``(M,)`` int64, tokens of each text up to and including the one at which it is read.

    Returns:
        Tensors on the CPU, whatever the device of the arguments. Moving the arguments waits for their device.
    """
    ids, sizes = tokens.cpu().numpy(), lengths.cpu().numpy()
    ids = ids[:, : sizes.max()]
    offsets = np.arange(ids.shape[1])
    ids = np.where(offsets < sizes[:, None], ids, -1)  # mask padding so that it does not affect deduplication
    order = np.lexsort(ids.T[::-1])
    ids, sizes = ids[order], sizes[order]
    differs = ids[1:] != ids[:-1]
    distinct = np.concatenate([[True], differs.any(1)])
    texts = np.empty(len(order), dtype=np.int64)
    texts[order] = distinct.cumsum() - 1
    first_new = np.concatenate([[0], differs.argmax(1)])[distinct]  # where a text departs from the one before it
    ids, sizes = ids[distinct], sizes[distinct]
    is_new = (offsets >= first_new[:, None]) & (offsets < sizes[:, None])
    numbers = np.where(is_new, is_new.cumsum().reshape(is_new.shape) - 1, 0)
    states = np.where(offsets < sizes[:, None], np.maximum.accumulate(numbers, axis=0), 0)

    by_length = np.argsort(sizes, kind="stable")
    source = np.empty(is_new.sum(), dtype=np.int64)
    groups, start = [], 0
    for rows in np.array_split(by_length, min(_NUM_GROUPS, -(-len(by_length) // _GROUP_SIZE))):
        longest = sizes[rows].max()
        group = states[rows, :longest]
        inside = offsets[:longest] < sizes[rows, None]
        source[group[inside]] = start + np.flatnonzero(inside)
        groups.append(torch.from_numpy(group))
        start += group.size
    rank = np.empty_like(by_length)
    rank[by_length] = np.arange(len(by_length))
    last = states[by_length, sizes[by_length] - 1]
    return PackedTexts(
        tokens=torch.from_numpy(ids[is_new]),
        positions=torch.from_numpy(np.broadcast_to(offsets, is_new.shape)[is_new]),
        groups=tuple(groups),
        source=torch.from_numpy(source),
        lengths=torch.from_numpy(sizes[by_length]),
        last=torch.from_numpy(last),
        texts=torch.from_numpy(rank[texts]),
    )
