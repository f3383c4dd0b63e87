"""Measure the peak memory of a function: of the allocator on a GPU, of the process on a CPU."""

from collections.abc import Callable
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Return how far the peak memory during ``work`` exceeds the memory in use before it.

    On a CPU this is the resident set of the process, whose peak Linux records. Allocators keep freed memory, so only
    the first call in a process gives the true value.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    Path("/proc/self/clear_refs").write_text("5")  # resets the recorded peak to the current value
    before = _kilobytes("VmRSS")
    work()
    return (_kilobytes("VmHWM") - before) * 1024


def resident_bytes(device: torch.device) -> int:
    """Return the bytes in use now."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _kilobytes("VmRSS") * 1024


def _kilobytes(key: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise OSError(f"{_STATUS} has no {key}")
