"""Write checkpoints whole or not at all, and on request beside the training.

Asynchronous writing copies the state to the memory of the host first. Training waits for that copy only; a thread
writes it to the disk.
"""

import copy
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from degla.artifacts import atomic_write, newest_checkpoint
from degla.errors import CheckpointError

log = logging.getLogger(__name__)


class CheckpointWriter(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name beside its target, flushes it to the disk and renames it.

    Lightning's own implementation builds the file in memory and writes it to the system's temporary folder, which may
    be too small and is on another disk.

    At most one checkpoint is written at a time. The thread is a daemon: a process that is stopped at once leaves an
    incomplete temporary file, as one that is killed does.

    Args:
        asynchronous: write in a thread.
        when_written: called with the path of a checkpoint that is on the disk.
    """

    def __init__(self, asynchronous: bool, when_written: Callable[[Path], None]):
        super().__init__()
        self.asynchronous = asynchronous
        self.when_written = when_written
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None  # of the thread; not yet raised

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint, or copy it and begin to write the copy.

        Args:
            checkpoint: as Lightning collects it.
            path: the file.
            storage_options: not used.

        Raises:
            CheckpointError: this checkpoint, or the one before it, cannot be written.
        """
        self.wait()
        path = Path(path)
        _refuse_missing_folder(path)
        if self.asynchronous:
            content = copy_to_host(checkpoint)
            self._thread = threading.Thread(target=self._write_in_thread, args=(content, path), daemon=True)
            self._thread.start()
        else:
            self._write(checkpoint, path)

    def wait(self) -> None:
        """Wait until the checkpoint is on the disk.

        Raises:
            CheckpointError: it cannot be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.raise_error()

    def raise_error(self) -> None:
        """Raise the error of the thread, once, if it has failed; do not wait for it.

        Raises:
            CheckpointError: a checkpoint could not be written.
        """
        error, self._error = self._error, None
        if error is not None:
            raise error

    @contextmanager
    def in_foreground(self) -> Iterator[None]:
        """Write within the block without a thread, so that all ranks wait for the disk."""
        asynchronous, self.asynchronous = self.asynchronous, False
        try:
            yield
        finally:
            self.asynchronous = asynchronous

    def _write_in_thread(self, content: dict[str, Any], path: Path) -> None:
        try:
            self._write(content, path)
        except Exception as error:  # raised in the training's thread at its next step
            self._error = error

    def _write(self, content: dict[str, Any], path: Path) -> None:
        _refuse_missing_folder(path)
        try:
            with atomic_write(path, flush_to_disk=True) as partial:
                torch.save(content, partial)
        except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as a RuntimeError
            _refuse_missing_folder(path)  # it may have disappeared during the write
            newest = newest_checkpoint(path.parent)
            remedy = f"ckpt_path=last resumes from {newest.name}" if newest else "there is no earlier checkpoint"
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"{path} cannot be written ({reason}): free some space; {remedy}") from error
        self.when_written(path)


def wait_for_checkpoint(checkpoint_io: object) -> None:
    """Wait until the last checkpoint of a run is on the disk.

    Args:
        checkpoint_io: of the trainer's strategy; another one than ours writes while training waits.

    Raises:
        CheckpointError: it cannot be written.
    """
    if isinstance(checkpoint_io, CheckpointWriter):
        checkpoint_io.wait()


def copy_to_host(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return a copy that later steps do not change, with all tensors in the memory of the host.

    Tensors that share memory share it in the copy too, so its file is as large as that of the original.

    Args:
        checkpoint: dictionaries, lists and tuples with tensors and plain data.
    """
    on_device = [tensor for tensor in _tensors(checkpoint) if tensor.device.type != "cpu"]
    # `deepcopy` takes an object that is in its memo from there, and copies the memory of all other tensors itself.
    return copy.deepcopy(checkpoint, dict(zip(map(id, on_device), host_copies(on_device), strict=True)))


def host_copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Copy tensors to pinned memory of the host, if there is a CUDA device, and wait until all of it has arrived.

    Args:
        tensors: on any device, of any shape ``(...)`` and dtype.

    Returns:
        One tensor for each, with its strides. Those that share memory share their copy of it.
    """
    memories: dict[tuple[torch.device, int, int], Tensor] = {}
    copies = []
    for tensor in tensors:
        storage = tensor.untyped_storage()
        key = (tensor.device, storage.data_ptr(), storage.nbytes())
        if key not in memories:
            source = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            memories[key] = _empty_on_host(len(source)).copy_(source, non_blocking=True)
        copied = torch.empty(0, dtype=tensor.dtype)
        memory = memories[key].untyped_storage()
        copies.append(copied.set_(memory, tensor.storage_offset(), tensor.size(), tensor.stride()))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return copies


def _empty_on_host(num_bytes: int) -> Tensor:
    if torch.cuda.is_available():
        try:
            return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        except RuntimeError:  # the limit of pinned memory; the copy is only slower
            log.debug("a checkpoint is copied to memory that is not pinned")
    return torch.empty(num_bytes, dtype=torch.uint8)


def _tensors(content: Any) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from _tensors(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _tensors(value)


def _refuse_missing_folder(path: Path) -> None:
    if not path.parent.is_dir():
        # Writing would create the folder again, and the run would go on apart from its earlier checkpoints.
        raise CheckpointError(
            f"{path.parent} was moved or removed while the run was writing to it: put it back, then ckpt_path=last "
            "resumes from its newest checkpoint"
        )
