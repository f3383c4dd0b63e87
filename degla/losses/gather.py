"""One gather a step, with gradient, for batches whose size may differ between ranks."""

import functools
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from degla.losses.features import Features


class GlobalBatch(NamedTuple):
    """Where this rank's rows lie in the batch over all ranks."""

    sizes: list[int]  # rows on each rank
    rows: slice  # this rank's rows among them

    @property
    def share(self) -> float:
        """Factor for a mean over this rank's rows, so that the mean over ranks is the global mean.

        1 where all ranks hold equally many rows.
        """
        return (self.rows.stop - self.rows.start) * len(self.sizes) / sum(self.sizes)


def global_batch(rows: int) -> GlobalBatch:
    """Learn how many rows each rank holds in this step.

    The ranks tell each other on the CPU: asking the device would wait for all it has been given to do.
    """
    if not _distributed():
        return GlobalBatch([rows], slice(0, rows))
    sizes = torch.empty(dist.get_world_size(), dtype=torch.long)
    dist.all_gather_into_tensor(sizes, torch.tensor([rows]), group=_cpu_group(dist.group.WORLD))
    sizes = sizes.tolist()
    start = sum(sizes[: dist.get_rank()])
    return GlobalBatch(sizes, slice(start, start + rows))


def gather_features(features: Features, batch: GlobalBatch) -> Features:
    """The features of the rows of all ranks, in rank order; gradient returns to the rank it came from.

    Image, caption, negatives and mask travel as one block, so this is one collective.
    """
    if not _distributed():
        return features
    rows, slots, dim = features.negatives.shape
    block = torch.cat(
        [
            features.image,
            features.text,
            features.negatives.reshape(rows, slots * dim),
            features.negative_mask.to(features.image.dtype),
        ],
        dim=1,
    )
    gathered = _AllGather.apply(block, batch.sizes)
    image, text, negatives, mask = gathered.split([dim, dim, slots * dim, slots], dim=1)
    return Features(image, text, negatives.unflatten(1, (slots, dim)), mask > 0.5, features.logit_scale)


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Add ``tensor`` over the ranks, in place, without gradient."""
    if _distributed():
        dist.all_reduce(tensor)
    return tensor


@functools.cache
def _cpu_group(world: dist.ProcessGroup) -> dist.ProcessGroup:
    """All ranks of ``world``, by way of the CPU; made when first asked for."""
    return dist.new_group(backend="gloo")


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _AllGather(torch.autograd.Function):
    """``torch.distributed.nn``'s gather is deprecated and its successors are private: hence our own."""

    @staticmethod
    def forward(ctx, block: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        padded = block.new_zeros(max(sizes), block.shape[1])
        padded[: len(block)] = block
        gathered = block.new_empty(len(sizes) * max(sizes), block.shape[1])
        dist.all_gather_into_tensor(gathered, padded)
        chunks = gathered.chunk(len(sizes))
        return torch.cat([chunk[:size] for chunk, size in zip(chunks, sizes, strict=True)])

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        # Every rank holds a loss that reads every row: a row's gradient is the sum over the ranks.
        grad = grad.contiguous()
        dist.all_reduce(grad)
        rank = dist.get_rank()
        start = sum(ctx.sizes[:rank])
        return grad[start : start + ctx.sizes[rank]], None
