"""A decorator that computes a loss in float32 or better, whatever precision the model ran in.

Cosines of bfloat16 features, multiplied by 100, have steps of 0.125 to 0.25. The margin between a caption and its hard
negative is smaller than that.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec

import torch
from torch import Tensor

_P = ParamSpec("_P")


def full_precision(loss: Callable[_P, Tensor]) -> Callable[_P, Tensor]:
    """Disable autocast and TF32 inside ``loss`` and convert half-precision tensors to float32 (float64 stays).

    Both hold for its backward pass too. Where the run allows TF32, a second derivative is not available.

    Args:
        loss: a function of tensors that returns a scalar ``()``.
    """
    computed: Callable[..., Tensor] = loss  # the converted arguments have the same names and types

    @functools.wraps(loss)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> Tensor:
        tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        device_type = next(tensors).device.type
        allows_tf32 = torch.get_float32_matmul_precision() != "highest"
        with _without_tf32(), torch.autocast(device_type, enabled=False):
            wide = [_widen(value) for value in args]
            named = {name: _widen(value) for name, value in kwargs.items()}
            if not allows_tf32:
                return computed(*wide, **named)
            values = [*wide, *named.values()]
            trained = [i for i, value in enumerate(values) if isinstance(value, Tensor) and value.requires_grad]

            def compute(*tensors: Tensor) -> Tensor:
                for i, tensor in zip(trained, tensors, strict=True):
                    values[i] = tensor
                return computed(*values[: len(wide)], **dict(zip(named, values[len(wide) :], strict=True)))

            result: Tensor = _WithoutTf32.apply(compute, *[values[i] for i in trained])
            return result

    return wrapper


class _WithoutTf32(torch.autograd.Function):
    """A function of tensors whose backward pass uses no TF32 either.

    Autograd runs the backward pass after the caller has restored the setting, so the function's own graph is kept and
    run here.
    """

    @staticmethod
    def forward(ctx: Any, compute: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        with torch.enable_grad():
            ctx.inputs = [tensor.detach().requires_grad_() for tensor in tensors]
            ctx.value = compute(*ctx.inputs)
        value: Tensor = ctx.value.detach()
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.value.requires_grad:
            return None, *(None for _ in ctx.inputs)
        with _without_tf32():
            gradients = torch.autograd.grad(ctx.value, ctx.inputs, grad, retain_graph=True, allow_unused=True)
        return None, *gradients


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # TF32 has steps an eighth of bfloat16's, which is still too much
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _widen(value: Any) -> Any:
    """Convert a half-precision tensor to float32 and return anything else unchanged."""
    if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    return value
