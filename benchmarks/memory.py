"""Peak memory of a stretch of code: of the device's allocator on a GPU, of the process on a CPU."""

from collections.abc import Callable
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """By how much ``work`` raises the memory in use, at its peak, over what was in use before.

    On a CPU this is the resident set of the process, which Linux keeps the highest value of; allocators keep
    what was freed, so the first call in a process is the one that tells.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    Path("/proc/self/clear_refs").write_text("5")  # the highest value starts again from the present one
    before = _kilobytes("VmRSS")
    work()
    return (_kilobytes("VmHWM") - before) * 1024


def resident_bytes(device: torch.device) -> int:
    """Memory in use now."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _kilobytes("VmRSS") * 1024


def _kilobytes(key: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise OSError(f"{_STATUS} has no {key}")
