"""Cross-entropy of many rows against many columns whose logits never lie in memory all at once."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_LOGITS = 2**23  # logits held at a time, 32 MiB in float32, unless that were fewer than
_ROWS = 256  # rows, which a matrix product needs to be fast


def row_cross_entropy(queries: Tensor, columns: Tensor, labels: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over rows of ``-log softmax(queries @ columns.T)[label]``, some rows at a time.

    The gradient is made along with the value, while a block of logits is at hand: three matrix products in
    all, nothing computed twice, and memory for one block only. It cannot be differentiated again.

    Args:
        queries: ``(R, D)``, already multiplied by the scale.
        columns: ``(C, D)``.
        labels: ``(R,)`` int64, the right column of each row; must be valid.
        valid: ``(C,)`` bool, False where a column does not exist; None if all do.

    Returns:
        ``()``.
    """
    differentiate = torch.is_grad_enabled() and (queries.requires_grad or columns.requires_grad)
    return _RowCrossEntropy.apply(queries, columns, labels, valid, differentiate)


class _RowCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, queries: Tensor, columns: Tensor, labels: Tensor, valid: Tensor | None, differentiate: bool
    ) -> Tensor:
        query_grad = torch.empty_like(queries) if differentiate else None
        column_grad = torch.zeros_like(columns) if differentiate else None
        total = queries.new_zeros(())
        size = max(_ROWS, _LOGITS // max(1, len(columns)))
        for start in range(0, len(queries), size):
            rows = slice(start, start + size)
            logits = queries[rows] @ columns.T
            if valid is not None:
                logits.masked_fill_(~valid, float("-inf"))
            right = labels[rows, None]
            largest = logits.amax(dim=1, keepdim=True)
            score = logits.gather(1, right) - largest
            powers = logits.sub_(largest).exp_()  # in the place of the logits
            sums = powers.sum(dim=1, keepdim=True)
            total += (sums.log() - score).sum()
            if differentiate:
                slope = powers.scatter_add_(1, right, -sums)  # (softmax - 1 at the label) x sums
                torch.mm(slope, columns, out=query_grad[rows]).div_(sums)
                column_grad.addmm_(slope.T, queries[rows] / sums)
        ctx.save_for_backward(query_grad, column_grad)
        ctx.num_rows = len(queries)
        return total / len(queries)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        query_grad, column_grad = ctx.saved_tensors
        factor = grad / ctx.num_rows
        return (
            query_grad * factor if ctx.needs_input_grad[0] else None,
            column_grad * factor if ctx.needs_input_grad[1] else None,
            None,
            None,
            None,
        )
