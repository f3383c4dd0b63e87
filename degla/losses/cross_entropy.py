"""Cross-entropy of many rows against many columns, computed in blocks so that only one block of logits is in memory."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_MAX_LOGITS_PER_BLOCK = 2**23  # 32 MiB in float32
_MIN_ROWS_PER_BLOCK = 256  # smaller matrix products waste the hardware


class Duplicates(NamedTuple):
    """Which columns show the same thing as a row's label, and what to do with them."""

    ids: Tensor  # (I, C') int64 of the first C' columns; two columns are alike if one of their I ids is equal
    treatment: Literal["mask", "count"]  # leave them out of the softmax, or count them as correct too


def row_cross_entropy(
    queries: Tensor,
    columns: Tensor,
    labels: Tensor,
    valid: Tensor | None = None,
    own_logits: Tensor | None = None,
    counted: Tensor | None = None,
    duplicates: Duplicates | None = None,
) -> Tensor:
    """Return the mean over rows of ``-log softmax(queries @ columns.T)[label]``, computed block by block.

    The forward pass computes the gradient too, while it holds a block of logits. So there are three matrix products
    in all, nothing is computed twice, and only one block is in memory. The result has no second derivative.

    Args:
        queries: ``(R, D)``, already multiplied by the scale.
        columns: ``(C, D)``.
        labels: ``(R,)`` int64, the correct column of each row; it must be a valid one.
        valid: ``(C,)`` bool, False where a column does not exist; None if all do.
        own_logits: ``(R, M)`` logits of further columns that only their row sees; -inf where there is none.
        counted: ``(R,)`` bool, the rows whose mean is returned; None if all. Without any the result is 0.
        duplicates: columns that are alike; None treats every column but the label as wrong.

    Returns:
        ``()``.
    """
    inputs = (queries, columns) if own_logits is None else (queries, columns, own_logits)
    differentiate = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    loss: Tensor = _RowCrossEntropy.apply(
        queries, columns, own_logits, _Rows(labels, valid, counted, duplicates), differentiate
    )
    return loss


def rows_per_block(num_columns: int) -> int:
    """Return how many rows of logits are in memory at a time.

    Args:
        num_columns: logits of one row.
    """
    return max(_MIN_ROWS_PER_BLOCK, _MAX_LOGITS_PER_BLOCK // max(1, num_columns))


def alike(ids: Tensor, labels: Tensor) -> Tensor:
    """Return which columns are alike to the label of each row, without the label itself.

    Args:
        ids: ``(I, C')`` int64; see ``Duplicates``.
        labels: ``(R,)`` int64, positions among the C' columns.

    Returns:
        ``(R, C')`` bool.
    """
    mask = torch.zeros(len(labels), ids.shape[1], dtype=torch.bool, device=ids.device)
    for row in ids:  # one id at a time, so that memory does not grow with their number
        mask |= row[labels, None] == row
    return mask.scatter_(1, labels[:, None], False)


class _Rows(NamedTuple):
    """What has no gradient: see the arguments of ``row_cross_entropy``."""

    labels: Tensor
    valid: Tensor | None
    counted: Tensor | None
    duplicates: Duplicates | None


class _RowCrossEntropy(torch.autograd.Function):
    """The mean cross-entropy and, from the same pass, its gradient for queries, columns and own logits."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, columns: Tensor, own_logits: Tensor | None, given: _Rows, differentiate: bool
    ) -> Tensor:
        query_grad = torch.empty_like(queries) if differentiate else None
        column_grad = torch.zeros_like(columns) if differentiate else None
        own_grad = torch.empty_like(own_logits) if differentiate and own_logits is not None else None
        total = queries.new_zeros(())
        step = rows_per_block(len(columns))
        for start in range(0, len(queries), step):
            rows = slice(start, start + step)
            logits = queries[rows] @ columns.T
            if given.valid is not None:
                logits.masked_fill_(~given.valid, float("-inf"))
            if own_logits is not None:
                logits = torch.cat([logits, own_logits[rows]], dim=1)
            label = given.labels[rows, None]
            positives = _treat(logits, label, given.duplicates)
            counted = None if given.counted is None else given.counted[rows, None]
            if counted is not None:  # a row that does not count may have no valid column at all
                logits.masked_fill_(~counted, 0)
            largest = logits.amax(dim=1, keepdim=True)
            score = _score(logits, label, positives) - largest
            powers = logits.sub_(largest).exp_()  # overwrites the logits
            sums = powers.sum(dim=1, keepdim=True)
            losses = sums.log() - score
            total += (losses if counted is None else losses.masked_fill(~counted, 0)).sum()
            if query_grad is not None and column_grad is not None:
                slope = _slope(powers, sums, label, positives)
                if counted is not None:
                    slope.masked_fill_(~counted, 0)
                if own_grad is not None:
                    slope, own_slope = slope[:, : len(columns)], slope[:, len(columns) :]
                    own_grad[rows] = own_slope / sums
                torch.mm(slope, columns, out=query_grad[rows]).div_(sums)
                column_grad.addmm_(slope.T, queries[rows] / sums)
        count = len(queries) if given.counted is None else given.counted.sum().clamp(min=1)
        ctx.save_for_backward(query_grad, column_grad, own_grad)
        ctx.count = count
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        factor = grad / ctx.count
        gradients = (
            saved * factor if needed and saved is not None else None
            for saved, needed in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
        )
        return (*gradients, None, None)


def _treat(logits: Tensor, label: Tensor, duplicates: Duplicates | None) -> Tensor | None:
    """Mask duplicates in place, or return ``(R, C')`` bool: the columns that are correct beside the label."""
    if duplicates is None:
        return None
    mask = alike(duplicates.ids, label[:, 0])
    if duplicates.treatment == "count":
        return mask
    logits[:, : mask.shape[1]].masked_fill_(mask, float("-inf"))
    return None


def _score(logits: Tensor, label: Tensor, positives: Tensor | None) -> Tensor:
    """Return ``(R, 1)``: the logit of the label, or the mean logit of all correct columns."""
    score = logits.gather(1, label)
    if positives is None:
        return score
    others = logits[:, : positives.shape[1]].where(positives, 0).sum(dim=1, keepdim=True)
    return (score + others) / (1 + positives.sum(dim=1, keepdim=True))


def _slope(powers: Tensor, sums: Tensor, label: Tensor, positives: Tensor | None) -> Tensor:
    """Return (softmax - target) x sums, written over ``powers``."""
    if positives is None:
        return powers.scatter_add_(1, label, -sums)
    share = sums / (1 + positives.sum(dim=1, keepdim=True))
    powers[:, : positives.shape[1]].sub_(share * positives)
    return powers.scatter_add_(1, label, -share)
