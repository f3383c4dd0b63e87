"""A decorator that computes a loss in float32 or better, whatever precision the model ran in.

Cosines of bfloat16 features, multiplied by 100, have steps of 0.125 to 0.25. The margin between a caption and its hard
negative is smaller than that.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import torch
from torch import Tensor

_P = ParamSpec("_P")


def full_precision(loss: Callable[_P, Tensor]) -> Callable[_P, Tensor]:
    """Disable autocast and TF32 inside ``loss`` and convert half-precision tensors to float32 (float64 stays).

    Args:
        loss: a function of tensors that returns a scalar ``()``.
    """
    computed: Callable[..., Tensor] = loss  # the converted arguments have the same names and types

    @functools.wraps(loss)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> Tensor:
        tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        device_type = next(tensors).device.type
        matmul_precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # TF32 has steps an eighth of bfloat16's, which is still too much
        try:
            with torch.autocast(device_type, enabled=False):
                return computed(*map(_widen, args), **{name: _widen(value) for name, value in kwargs.items()})
        finally:
            torch.set_float32_matmul_precision(matmul_precision)

    return wrapper


def _widen(value: Any) -> Any:
    """Convert a half-precision tensor to float32 and return anything else unchanged."""
    if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    return value
