"""One gather per step, with gradient, for batches whose size may differ between ranks."""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from degla.losses.features import Features, fields_of


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


def gather_features(features: Features, batch: GlobalBatch, needs: Iterable[str], exact: bool = True) -> Features:
    """Return the features of the samples of all ranks, in rank order; gradient returns to the rank it came from.

    All fields travel as one tensor, so this is one collective.

    Args:
        features: of this rank's B samples.
        batch: the sizes of all ranks' batches; N is their sum.
        needs: names in ``NEEDS``; images, captions and what these need are gathered.
        exact: whether a sample's gradient is the sum over all ranks. False returns only the part of this rank's own
            loss, as the authors' released code does; on R ranks the gradient is then 1/R of the exact one.

    Returns:
        Features with N in place of B, such as ``(N, D)`` images and ``(N, K, D)`` negatives. Without a need for
        negatives K is 0. Fields that were not gathered are None.
    """
    names = [name for name in fields_of(needs) if name not in _NOT_GATHERED]
    fields = {name: tensor for name in names if (tensor := getattr(features, name)) is not None}
    if _distributed():
        blocks = {name: _as_block(tensor, features.image.dtype) for name, tensor in fields.items()}
        gathered: Tensor = _AllGather.apply(torch.cat(list(blocks.values()), dim=1), batch.sizes, exact)
        parts = torch.split(gathered, [block.shape[1] for block in blocks.values()], dim=1)
        fields = {name: _from_block(part, fields[name]) for name, part in zip(fields, parts, strict=True)}
    empty = {
        "negatives": features.negatives.new_zeros(sum(batch.sizes), 0, features.image.shape[1]),
        "negative_mask": features.negative_mask.new_zeros(sum(batch.sizes), 0),
    }
    return Features(**{**empty, **fields}, logit_scale=features.logit_scale, logit_bias=features.logit_bias)


# Token features are far larger than the others, and scalars are the same on all ranks.
_NOT_GATHERED = {"logit_bias", "patches", "tokens", "token_mask", "negative_tokens", "negative_token_mask"}
_ID_BITS = 21  # float32 holds whole numbers of up to 24 bits exactly


def _as_block(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``(B, F)`` numbers of ``dtype`` that hold a field exactly; an id of 63 bits becomes three numbers."""
    if tensor.dtype == torch.int64:
        low = 2**_ID_BITS - 1
        return torch.stack([(tensor >> (_ID_BITS * part)) & low for part in range(3)], dim=1).to(dtype)
    return tensor.flatten(1).to(dtype) if tensor.ndim > 1 else tensor[:, None].to(dtype)


def _from_block(block: Tensor, like: Tensor) -> Tensor:
    """Undo ``_as_block``; ``like`` is this rank's own field."""
    if like.dtype == torch.int64:
        parts = block.long()
        return parts[:, 0] | (parts[:, 1] << _ID_BITS) | (parts[:, 2] << (2 * _ID_BITS))
    shaped = block.reshape(len(block), *like.shape[1:])
    return shaped > 0.5 if like.dtype == torch.bool else shaped


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


def share_over_ranks(count: Tensor) -> Tensor:
    """Return the factor for a mean over ``count`` items of this rank that makes the mean over ranks the global mean.

    Args:
        count: ``()`` number of items on this rank, in the dtype of the loss; it may be 0.

    Returns:
        ``()``: this rank's part of all items, times the number of ranks. 1 in a single process.
    """
    if not _distributed():
        return torch.ones_like(count)
    total = sum_over_ranks(count.clone()).clamp(min=1)
    return count * dist.get_world_size() / total


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
    def forward(ctx: Any, block: Tensor, sizes: list[int], exact: bool) -> Tensor:
        ctx.sizes, ctx.exact = sizes, exact
        padded = block.new_zeros(max(sizes), block.shape[1])
        padded[: len(block)] = block
        gathered = block.new_empty(len(sizes) * max(sizes), block.shape[1])
        dist.all_gather_into_tensor(gathered, padded)
        chunks = gathered.chunk(len(sizes))
        return torch.cat([chunk[:size] for chunk, size in zip(chunks, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        # Every rank's loss reads every sample, so a sample's gradient is the sum over the ranks.
        grad = grad.contiguous()
        if ctx.exact:
            dist.all_reduce(grad)
        rank = dist.get_rank()
        start = sum(ctx.sizes[:rank])
        return grad[start : start + ctx.sizes[rank]], None, None
