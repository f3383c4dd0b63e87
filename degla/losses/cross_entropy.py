"""Cross-entropy of many rows against many columns, computed in blocks so that only one block of logits is in memory."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_MAX_LOGITS_PER_BLOCK = 2**23  # 32 MiB in float32
_MIN_ROWS_PER_BLOCK = 256  # smaller matrix products waste the hardware


def row_cross_entropy(queries: Tensor, columns: Tensor, labels: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the mean over rows of ``-log softmax(queries @ columns.T)[label]``, computed block by block.

    The forward pass computes the gradient too, while it holds a block of logits. So there are three matrix products
    in all, nothing is computed twice, and only one block is in memory. The result has no second derivative.

    Args:
        queries: ``(R, D)``, already multiplied by the scale.
        columns: ``(C, D)``.
        labels: ``(R,)`` int64, the correct column of each row; it must be a valid one.
        valid: ``(C,)`` bool, False where a column does not exist; None if all do.

    Returns:
        ``()``.
    """
    differentiate = torch.is_grad_enabled() and (queries.requires_grad or columns.requires_grad)
    loss: Tensor = _RowCrossEntropy.apply(queries, columns, labels, valid, differentiate)
    return loss


class _RowCrossEntropy(torch.autograd.Function):
    """The mean cross-entropy and, from the same pass, its gradient for queries and columns."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, columns: Tensor, labels: Tensor, valid: Tensor | None, differentiate: bool
    ) -> Tensor:
        query_grad = torch.empty_like(queries) if differentiate else None
        column_grad = torch.zeros_like(columns) if differentiate else None
        total = queries.new_zeros(())
        rows_per_block = max(_MIN_ROWS_PER_BLOCK, _MAX_LOGITS_PER_BLOCK // max(1, len(columns)))
        for start in range(0, len(queries), rows_per_block):
            rows = slice(start, start + rows_per_block)
            logits = queries[rows] @ columns.T
            if valid is not None:
                logits.masked_fill_(~valid, float("-inf"))
            label = labels[rows, None]
            largest = logits.amax(dim=1, keepdim=True)
            score = logits.gather(1, label) - largest
            powers = logits.sub_(largest).exp_()  # overwrites the logits
            sums = powers.sum(dim=1, keepdim=True)
            total += (sums.log() - score).sum()
            if query_grad is not None and column_grad is not None:
                slope = powers.scatter_add_(1, label, -sums)  # (softmax - 1 at the label) x sums
                torch.mm(slope, columns, out=query_grad[rows]).div_(sums)
                column_grad.addmm_(slope.T, queries[rows] / sums)
        ctx.save_for_backward(query_grad, column_grad)
        ctx.num_rows = len(queries)
        return total / len(queries)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query_grad, column_grad = ctx.saved_tensors
        factor = grad / ctx.num_rows
        return (
            query_grad * factor if ctx.needs_input_grad[0] else None,
            column_grad * factor if ctx.needs_input_grad[1] else None,
            None,
            None,
            None,
        )
