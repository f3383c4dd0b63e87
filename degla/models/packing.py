"""Texts without padding and without repetition: each distinct beginning of a text is kept once.

In a causal tower the state at a position depends on the tokens up to it and on nothing else. So texts that
begin alike (a caption and its negatives, any two captions that begin with "a man in") share their states
until they part, the positions behind a text's end are not needed at all, and equal texts are one.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_GROUPS = 4  # attention is padded to the longest text of a group; more groups are more calls
_GROUP_SIZE = 64  # texts for which another call is worth it


class PackedTexts(NamedTuple):
    """What a causal text tower has to compute for M texts: T states, R distinct texts among the M.

    The R texts stand in order of length, in groups; a group is padded to its longest text for attention,
    everything else runs on the T states.
    """

    tokens: Tensor  # (T,) int64 id of each state's token
    positions: Tensor  # (T,) int64 place of the token in its text
    groups: tuple[Tensor, ...]  # of (R_g, L_g) int64: the state at each position of each text; 0 behind its end
    source: Tensor  # (T,) int64 where in the groups, flat and end to end, a state is to be found
    lengths: Tensor  # (R,) int64 tokens of each text
    last: Tensor  # (R,) int64 the state at which each text is read
    texts: Tensor  # (M,) int64 which of the R each of the M is

    def to(self, device: torch.device | str) -> "PackedTexts":
        """The same on another device."""
        return PackedTexts(
            *(
                tuple(part.to(device) for part in value) if isinstance(value, tuple) else value.to(device)
                for value in self
            )
        )


def pack(tokens: Tensor, lengths: Tensor) -> PackedTexts:
    """Find what texts have in common.

    Args:
        tokens: ``(M, L)`` int64, M at least 1.
        lengths: ``(M,)`` int64, tokens of each text up to and including the one at which it is read.

    Returns:
        On the CPU, whatever the device of the arguments (which waits for it).
    """
    tokens, lengths = tokens.cpu().numpy(), lengths.cpu().numpy()
    tokens = tokens[:, : lengths.max()]
    places = np.arange(tokens.shape[1])
    tokens = np.where(places < lengths[:, None], tokens, -1)  # what stands behind the end tells no texts apart
    order = np.lexsort(tokens.T[::-1])
    tokens, lengths = tokens[order], lengths[order]
    differs = tokens[1:] != tokens[:-1]
    distinct = np.concatenate([[True], differs.any(1)])
    texts = np.empty(len(order), dtype=np.int64)
    texts[order] = distinct.cumsum() - 1
    # Of texts in alphabetical order each shares with the one before it whatever it shares with any before it.
    parts = np.concatenate([[0], differs.argmax(1)])[distinct]
    tokens, lengths = tokens[distinct], lengths[distinct]
    new = (places >= parts[:, None]) & (places < lengths[:, None])
    numbers = np.where(new, new.cumsum().reshape(new.shape) - 1, 0)
    states = np.where(places < lengths[:, None], np.maximum.accumulate(numbers, axis=0), 0)

    by_length = np.argsort(lengths, kind="stable")
    source = np.empty(new.sum(), dtype=np.int64)
    groups, start = [], 0
    for rows in np.array_split(by_length, min(_GROUPS, -(-len(by_length) // _GROUP_SIZE))):
        longest = lengths[rows].max()
        group = states[rows, :longest]
        inside = places[:longest] < lengths[rows, None]
        source[group[inside]] = start + np.flatnonzero(inside)
        groups.append(torch.from_numpy(group))
        start += group.size
    rank = np.empty_like(by_length)
    rank[by_length] = np.arange(len(by_length))
    last = states[by_length, lengths[by_length] - 1]
    return PackedTexts(
        tokens=torch.from_numpy(tokens[new]),
        positions=torch.from_numpy(np.broadcast_to(places, new.shape)[new]),
        groups=tuple(groups),
        source=torch.from_numpy(source),
        lengths=torch.from_numpy(lengths[by_length]),
        last=torch.from_numpy(last),
        texts=torch.from_numpy(rank[texts]),
    )
