"""What the machine can do at best, measured, and what a step needs at least."""

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode


def peak_flops(device: torch.device, dtype: torch.dtype, size: int | None = None) -> float:
    """Floating-point operations a second in a large square matrix product, the best of some."""
    size = size or (8192 if device.type == "cuda" else 2048)
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / _best(lambda: a @ b, device)


def peak_bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written, in a copy of 256 MiB (1 GiB on a GPU), the best of some."""
    numbers = 2**28 if device.type == "cuda" else 2**26
    a = torch.randn(numbers, device=device)
    b = torch.empty_like(a)
    return 2 * 4 * numbers / _best(lambda: b.copy_(a), device)


def counted_flops(step: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products, convolutions and attentions of one step."""
    counter = FlopCounterMode(display=False)
    with counter:
        step()
    return counter.get_total_flops()


def step_bytes(student: torch.nn.Module, averaged: bool = True) -> int:
    """The least a step moves, activations left out, in float32.

    Weights are read by both passes of the student and by the teacher, gradients are written; AdamW reads four
    numbers a parameter and writes three, the average of the teacher reads two and writes one.
    """
    numbers = sum(parameter.numel() for parameter in student.parameters())
    return 4 * numbers * (2 + 1 + 1 + 7 + (3 if averaged else 0))


def floors(flops: int, moved: int, device: torch.device, dtype: torch.dtype, seconds: float) -> dict[str, float]:
    """The two floors in seconds, what they rest on, and how far ``seconds`` is from the higher one."""
    peak, bandwidth = peak_flops(device, dtype), peak_bandwidth(device)
    lowest = max(flops / peak, moved / bandwidth)
    return {
        "flops": flops,
        "bytes": moved,
        "measured_peak_flops_per_second": peak,
        "measured_bytes_per_second": bandwidth,
        "floor_by_flops_seconds": flops / peak,
        "floor_by_bytes_seconds": moved / bandwidth,
        "times_the_higher_floor": seconds / lowest,
        "share_of_peak": flops / peak / seconds,
    }


def synchronised(device: torch.device) -> float:
    """The time, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _best(work: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    times = []
    for _ in range(repeats):
        start = synchronised(device)
        work()
        times.append(synchronised(device) - start)
    return min(times)
