"""Errors of the machine, such as a full disk or a killed worker, as one sentence.

Imports no torch.
"""

import errno
import os
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

# Program -> the key of the folder that it writes to.
_FOLDERS = {
    "train": "run_dir",
    "evaluate": "run_dir",
    "negatives": "output",
    "export": "out",
    "study": "out",
    "downloads": "data_dir",
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.ESTALE)
_TOO_LARGE = {
    "train": "set loader.chunk_size to a part of the batch (the same result), or lower loader.global_batch_size",
    "evaluate": "lower batch_size",
}
_WORKERS = {"train": "loader.num_workers", "evaluate": "num_workers"}


def machine_sentence(error: BaseException, program: str, cfg: DictConfig | None = None) -> str:
    """Return what is wrong with the machine and what to do about it; "" for any other error.

    Args:
        error: what a program has raised.
        program: name of its root config, such as ``train``.
        cfg: the composed config; None if it was not composed yet.
    """
    if sentence := _memory_sentence(error, program):
        return sentence
    number = _errno(error)
    key = _FOLDERS.get(program)
    folder = OmegaConf.select(cfg, key) if cfg is not None and key else None
    path = getattr(error, "filename", None) or folder or "a file of this run"
    other = f", or set {key} to another folder" if key else ""
    if number in _FULL:
        return f"{path} cannot be written, because the disk is full: free some space{other}, then repeat the command"
    if number in _REFUSED:
        return f"{path} cannot be read or written ({os.strerror(number)}): correct that{other}"
    if number == errno.ENOENT and isinstance(path, str | Path) and not Path(path).absolute().parent.is_dir():
        return f"{path} cannot be read or written, because its folder was removed: create it again{other}"
    return ""


def _errno(error: BaseException) -> int:
    """Return the number of an error of the file system; 0 for other errors."""
    if isinstance(error, ConnectionError | TimeoutError | BrokenPipeError):  # of the network or the console
        return 0
    if isinstance(error, OSError) and error.errno:
        return error.errno
    # pyarrow, safetensors and torch write files without Python, and only quote the system's words.
    return next((number for number in (*_FULL, *_REFUSED) if os.strerror(number) in str(error)), 0)


def _memory_sentence(error: BaseException, program: str) -> str:
    text = str(error)
    # torch's class is known by its name only, because importing it would import torch.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return f"out of memory: {_TOO_LARGE.get(program, 'close other programs, or use a machine with more')}"
    workers = _WORKERS.get(program, "num_workers")
    if "DataLoader worker" in text and ("exited unexpectedly" in text or "killed by signal" in text):
        return f"a data-loading worker was killed, by a lack of memory or of shared memory: lower {workers}"
    if "DataLoader timed out" in text:
        return (
            "the data-loading workers delivered no batch for too long: check the storage of the data, or set "
            f"{workers}=0, which shows where the reading stops"
        )
    return ""
