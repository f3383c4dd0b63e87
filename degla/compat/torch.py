"""Private names of torch, read in version 2.15.

Legend of shapes: T token rows, N rows of a table, W width.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.distributed_c10d import Store
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Re-exported for ``degla.training.memory``, which runs a step on tensors without data; torch documents the three in its
# notes on fake tensors and on extending torch, but keeps them in private modules.
__all__ = [
    "FakeTensorMode",
    "TorchDispatchMode",
    "allow_recompiles",
    "default_store",
    "foreach_lerp_",
    "silu_backward",
    "sum_rows",
    "tree_leaves",
]


def foreach_lerp_(tensors: Sequence[Tensor], targets: Sequence[Tensor], weight: float | Tensor) -> None:
    """Move ``tensors`` towards ``targets`` in place, in one kernel for many tensors.

    ``torch._foreach_lerp_``; the public ``Tensor.lerp_`` starts one kernel for each tensor, which for the 300
    parameters of a ViT-B/32 takes longer than the arithmetic.
    Source: https://github.com/pytorch/pytorch/blob/main/aten/src/ATen/native/ForeachOpsKernels.cpp

    Args:
        tensors: of any shapes ``(...)``; they are changed.
        targets: as many, of the same shapes.
        weight: 0 changes nothing, 1 copies the targets. A ``()`` tensor on their device is not read by the host, but
            takes one kernel for each tensor.
    """
    if isinstance(weight, Tensor):
        torch._foreach_lerp_(list(tensors), list(targets), [weight.to(tensor.dtype) for tensor in tensors])
    else:
        torch._foreach_lerp_(list(tensors), list(targets), weight)


def silu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of ``silu(x)``.

    ``torch.ops.aten.silu_backward``; there is no public function for it, and writing it out takes four more tensors
    of the size of ``x``.
    Source: https://github.com/pytorch/pytorch/blob/main/aten/src/ATen/native/Activation.cpp

    Args:
        grad: ``(...)``, the gradient of the output.
        x: ``(...)``, the input of the forward pass.

    Returns:
        ``(...)``, in the dtype of ``x``.
    """
    gradient: Tensor = torch.ops.aten.silu_backward(grad, x)
    return gradient


def allow_recompiles(limit: int) -> None:
    """Let ``torch.compile`` keep at least ``limit`` versions of a function before it stops compiling it.

    ``torch._dynamo.config.recompile_limit``; ``torch.compile`` has an argument for it from 2.15 on only. At the default
    of 8 versions it runs the function uncompiled, which for FlexAttention takes memory for every pair of states.
    Source: https://github.com/pytorch/pytorch/blob/main/torch/_dynamo/config.py

    Args:
        limit: versions of one function.
    """
    torch._dynamo.config.recompile_limit = max(limit, torch._dynamo.config.recompile_limit)


def sum_rows(rows: Tensor, index: Tensor, num_rows: int) -> Tensor:
    """Add up rows that have the same number, in a fixed order.

    ``torch.ops.aten.embedding_dense_backward``; the public ``index_add_`` adds in an order that differs from run to
    run on a GPU.
    Source: https://github.com/pytorch/pytorch/blob/main/aten/src/ATen/native/Embedding.cpp

    Args:
        rows: ``(..., W)``, contiguous.
        index: ``(...)`` int64, the number of each row.
        num_rows: N, the rows of the result.

    Returns:
        ``(N, W)``, in the dtype of ``rows``; rows that no index names are zero.
    """
    summed: Tensor = torch.ops.aten.embedding_dense_backward(rows, index, num_rows, -1, False)
    return summed


def default_store() -> Store:
    """Return the key-value store through which the processes of a run met.

    ``torch.distributed.distributed_c10d._get_default_store``; without it a second store would need a port of its own.
    Source: https://github.com/pytorch/pytorch/blob/main/torch/distributed/distributed_c10d.py

    Raises:
        ValueError: there is no process group.
    """
    return dist.distributed_c10d._get_default_store()
