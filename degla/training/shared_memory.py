"""Lower the number of data-loading workers where ``/dev/shm`` is too small for their batches.

Workers hand batches over in shared memory, with either of torch's sharing strategies. Where it is full, a worker is
killed or waits forever. Docker gives a container 64 MB.
"""

import logging
import os
from pathlib import Path

from degla.data.datamodule import DataModule

log = logging.getLogger(__name__)

_SHARED_MEMORY = Path("/dev/shm")
_PREFETCHED = 2  # batches that each worker has ready, torch's default
_BEING_MADE = 1  # batch that a worker is copying into shared memory


def limit_workers(
    datamodule: DataModule, image_size: tuple[int, int], world_size: int, processes_per_node: int
) -> None:
    """Lower ``num_workers`` of a DataModule to what fits into the shared memory, and say so.

    Training samples do not depend on the number of workers; a stream's order does.

    Args:
        datamodule: is changed.
        image_size: height and width of its images.
        world_size: processes of the run.
        processes_per_node: those that share this machine's memory.
    """
    free = free_shared_memory()
    if free is None or not datamodule.num_workers:
        return
    needed = batch_bytes(datamodule, image_size, world_size) * (_PREFETCHED + _BEING_MADE) * processes_per_node
    num_workers = min(datamodule.num_workers, int(free / needed))
    if num_workers < datamodule.num_workers:
        total = datamodule.num_workers * needed
        log.warning(
            f"{_SHARED_MEMORY} has {free / 2**20:.0f} MB free, and {datamodule.num_workers} workers need "
            f"{total / 2**20:.0f} MB: using loader.num_workers={num_workers}; enlarge it with "
            "docker run --shm-size=8g or --ipc=host, or mount -o remount,size=8g /dev/shm"
        )
        datamodule.num_workers = num_workers


def free_shared_memory() -> int | None:
    """Return the free bytes of ``/dev/shm``; None where the system has none."""
    if not _SHARED_MEMORY.is_dir():
        return None
    status = os.statvfs(_SHARED_MEMORY)
    return status.f_bavail * status.f_frsize


def batch_bytes(datamodule: DataModule, image_size: tuple[int, int], world_size: int) -> int:
    """Return the bytes of the largest batch of a process, in training or validation.

    Args:
        datamodule: says how many samples and negatives a batch has.
        image_size: height and width of its images.
        world_size: processes of the run.
    """
    samples = -(-datamodule.global_batch_size // world_size) * (2 if datamodule.hard_images else 1)
    height, width = image_size
    collates = (datamodule.collate, samples), (datamodule.val_collate, datamodule.val_batch_size)
    return max(
        size
        * (
            3 * height * width * collate.images_per_sample
            + 8 * collate.texts_per_sample * collate.tokenizer.context_length
        )
        for collate, size in collates
        if size == samples or len(datamodule.val_indices)
    )
