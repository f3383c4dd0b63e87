"""The sigmoid loss of many pairs of rows and columns, computed in blocks as ``cross_entropy`` does."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from degla.losses.cross_entropy import Duplicates, alike, rows_per_block


def row_sigmoid(
    queries: Tensor,
    columns: Tensor,
    bias: Tensor,
    labels: Tensor,
    valid: Tensor | None = None,
    duplicates: Duplicates | None = None,
) -> Tensor:
    """Return the mean over rows of the sum over columns of ``-log sigmoid(+-(queries @ columns.T + bias))``.

    The sign is plus for the label of a row and minus for all other columns. The forward pass computes the gradient
    too, and the result has no second derivative.

    Args:
        queries: ``(R, D)``, already multiplied by the scale.
        columns: ``(C, D)``.
        bias: ``()`` added to every logit.
        labels: ``(R,)`` int64, the column that matches each row.
        valid: ``(C,)`` bool, False where a column does not exist; None if all do.
        duplicates: columns that are alike; ``mask`` leaves their pairs out, ``count`` gives them the sign plus.

    Returns:
        ``()``.
    """
    inputs = (queries, columns, bias)
    differentiate = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    loss: Tensor = _RowSigmoid.apply(*inputs, labels, valid, duplicates, differentiate)
    return loss


class _RowSigmoid(torch.autograd.Function):
    """The mean sigmoid loss and, from the same pass, its gradient for queries, columns and bias."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        columns: Tensor,
        bias: Tensor,
        labels: Tensor,
        valid: Tensor | None,
        duplicates: Duplicates | None,
        differentiate: bool,
    ) -> Tensor:
        query_grad = torch.empty_like(queries) if differentiate else None
        column_grad = torch.zeros_like(columns) if differentiate else None
        bias_grad = torch.zeros_like(bias) if differentiate else None
        total = queries.new_zeros(())
        step = rows_per_block(len(columns))
        for start in range(0, len(queries), step):
            rows = slice(start, start + step)
            label = labels[rows, None]
            signs = queries.new_full((len(label), len(columns)), -1).scatter_(1, label, 1)
            if valid is not None:
                signs.masked_fill_(~valid, 0)
            if duplicates is not None:
                mask = alike(duplicates.ids, label[:, 0])
                signs[:, : mask.shape[1]].masked_fill_(mask, 0 if duplicates.treatment == "mask" else 1)
            logits = torch.addmm(bias, queries[rows], columns.T).mul_(signs)
            # A pair that is left out has sign 0, so its logit is 0 and its loss log 2, which is not counted.
            total += F.softplus(-logits).mul_(signs.abs()).sum()
            if query_grad is not None and column_grad is not None and bias_grad is not None:
                slope = logits.neg_().sigmoid_().mul_(signs).neg_()
                torch.mm(slope, columns, out=query_grad[rows])
                column_grad.addmm_(slope.T, queries[rows])
                bias_grad += slope.sum()
        ctx.save_for_backward(query_grad, column_grad, bias_grad)
        ctx.count = len(queries)
        return total / len(queries)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        factor = grad / ctx.count
        gradients = (
            saved * factor if needed else None
            for saved, needed in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
        )
        return (*gradients, None, None, None, None)
