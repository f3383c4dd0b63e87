"""Measure the memory of a CPU's tensors: those that are alive, and the calls of torch's allocator."""

import gc

import torch
from torch.profiler import profile


def live_bytes() -> int:
    """Return the bytes of all tensors that Python can reach, each storage once."""
    storages = {}
    for item in gc.get_objects():
        if isinstance(item, torch.Tensor) and item.device.type == "cpu" and type(item) in _PLAIN:
            for tensor in (item, item.grad if item.is_leaf else None):
                if tensor is not None and tensor.layout is torch.strided:
                    storage = tensor.untyped_storage()
                    storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


_PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


def peak_of_events(recorded: profile) -> int:
    """Return how far allocations rose above the start of a profile with ``profile_memory``, in bytes."""
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
