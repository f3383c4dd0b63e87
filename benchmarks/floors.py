"""Measure the peak rates of the machine, and compare a step with the least time that they allow."""

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode


def peak_flops(device: torch.device, dtype: torch.dtype, size: int | None = None) -> float:
    """Measure the floating-point operations per second of a large square matrix product; the best of ten.

    Args:
        device: device to measure.
        dtype: type of the matrices.
        size: rows of the matrices; None takes 8192 on a GPU and 2048 on a CPU.
    """
    size = size or (8192 if device.type == "cuda" else 2048)
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / _best(lambda: a @ b, device)


def peak_bandwidth(device: torch.device) -> float:
    """Measure the bytes per second, read and written, of adding to 256 MiB in place (1 GiB on a GPU); the best of ten.

    A copy would not do: a CPU reads each line of the target before it writes it, so a copy moves three bytes where two
    are counted. Optimizer and EMA write what they have read, as this does.
    """
    numbers = torch.zeros(2**28 if device.type == "cuda" else 2**26, device=device)
    return 2 * 4 * len(numbers) / _best(lambda: numbers.add_(1), device)


def counted_flops(step: Callable[[], object]) -> int:
    """Count the floating-point operations of one step: matrix products, convolutions and attention."""
    counter = FlopCounterMode(display=False)
    with counter:
        step()
    return counter.get_total_flops()


def step_bytes(student: torch.nn.Module, averaged: bool = True) -> int:
    """Return the bytes that a float32 step must move at least, without activations.

    Forward and backward of the student and the forward of the teacher read the weights once each. Gradients are written
    once. AdamW reads four numbers per parameter and writes three; the EMA teacher reads two and writes one.

    Args:
        student: the model that is trained.
        averaged: whether the teacher is an EMA.
    """
    numbers = sum(parameter.numel() for parameter in student.parameters())
    return 4 * numbers * (2 + 1 + 1 + 7 + (3 if averaged else 0))


def floors(flops: int, moved: int, device: torch.device, dtype: torch.dtype, seconds: float) -> dict[str, float]:
    """Return the two lower bounds of a step's time, what they are computed from, and the distance to them.

    Args:
        flops: floating-point operations of the step.
        moved: bytes that the step moves.
        device: device that was measured.
        dtype: type of the matrix products.
        seconds: measured time of the step.
    """
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
    """Return the time after the device has finished its queued work."""
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
