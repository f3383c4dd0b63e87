"""Every loss runs in float32 or better, whatever the model ran in.

A cosine of bfloat16 features times 100 moves in steps of 0.125 to 0.25: the margin between a caption and
its hard negative is smaller than that.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor


def full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Disable autocast and TF32 inside ``loss`` and raise half-precision tensors to float32 (float64 stays)."""

    def raised(value):
        if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
            return value.float()
        return value

    @functools.wraps(loss)
    def wrapper(*args, **kwargs):
        tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        device_type = next(tensors).device.type
        products = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # TF32 has bfloat16's trouble at an eighth of the size
        try:
            with torch.autocast(device_type, enabled=False):
                return loss(*map(raised, args), **{name: raised(value) for name, value in kwargs.items()})
        finally:
            torch.set_float32_matmul_precision(products)

    return wrapper
