"""One gather per step, with gradient, for batches whose size may differ between ranks."""

import functools
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from degla.losses.features import Features


class GlobalBatch(NamedTuple):
    """The position of this rank's samples in the batch over all ranks."""

    sizes: list[int]  # samples on each rank
    rows: slice  # this rank's samples among them

    @property
    def share(self) -> float:
        """The factor for a mean over this rank's samples that makes the mean over ranks the global mean.

        It is 1 where all ranks hold equally many samples.
        """
        samples: int = self.rows.stop - self.rows.start
        return samples * len(self.sizes) / sum(self.sizes)


def global_batch(samples: int) -> GlobalBatch:
    """Return how many samples each rank holds in this step.

    The ranks exchange the numbers on the CPU. A collective on the device would have to wait for all work that is queued
    there.

    Args:
        samples: number of samples on this rank.
    """
    if not _distributed():
        return GlobalBatch(sizes=[samples], rows=slice(0, samples))
    gathered = torch.empty(dist.get_world_size(), dtype=torch.long)
    dist.all_gather_into_tensor(gathered, torch.tensor([samples]), group=_cpu_group(dist.group.WORLD))
    sizes: list[int] = gathered.tolist()
    start = sum(sizes[: dist.get_rank()])
    return GlobalBatch(sizes=sizes, rows=slice(start, start + samples))


def gather_features(features: Features, batch: GlobalBatch) -> Features:
    """Return the features of the samples of all ranks, in rank order; gradient returns to the rank it came from.

    Image, caption, negatives and mask travel as one tensor, so this is one collective.

    Args:
        features: of this rank's B samples.
        batch: the sizes of all ranks' batches; N is their sum.

    Returns:
        Features with N in place of B, such as ``(N, D)`` images and ``(N, K, D)`` negatives.
    """
    if not _distributed():
        return features
    samples, slots, dim = features.negatives.shape
    block = torch.cat(
        [
            features.image,
            features.text,
            features.negatives.reshape(samples, slots * dim),
            features.negative_mask.to(features.image.dtype),
        ],
        dim=1,
    )
    gathered: Tensor = _AllGather.apply(block, batch.sizes)
    image, text, negatives, mask = torch.split(gathered, [dim, dim, slots * dim, slots], dim=1)
    return Features(
        image=image,
        text=text,
        negatives=torch.unflatten(negatives, 1, (slots, dim)),
        negative_mask=mask > 0.5,
        logit_scale=features.logit_scale,
    )


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Add ``tensor`` over the ranks, in place, without gradient.

    Args:
        tensor: of any shape ``(...)``, the same on every rank.

    Returns:
        ``tensor``.
    """
    if _distributed():
        dist.all_reduce(tensor)
    return tensor


@functools.cache
def _cpu_group(world: dist.ProcessGroup | None) -> Any:
    """Create a gloo group of all ranks at the first call. ``world`` is the key: a new world gets a new group."""
    return dist.new_group(backend="gloo")


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _AllGather(torch.autograd.Function):
    """An all-gather of ``(B, F)`` blocks whose B differs between ranks.

    ``torch.distributed.nn.all_gather`` would do, but it is deprecated and its successors are private.
    """

    @staticmethod
    def forward(ctx: Any, block: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        padded = block.new_zeros(max(sizes), block.shape[1])
        padded[: len(block)] = block
        gathered = block.new_empty(len(sizes) * max(sizes), block.shape[1])
        dist.all_gather_into_tensor(gathered, padded)
        chunks = gathered.chunk(len(sizes))
        return torch.cat([chunk[:size] for chunk, size in zip(chunks, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # Every rank's loss reads every sample, so a sample's gradient is the sum over the ranks.
        grad = grad.contiguous()
        dist.all_reduce(grad)
        rank = dist.get_rank()
        start = sum(ctx.sizes[:rank])
        return grad[start : start + ctx.sizes[rank]], None
