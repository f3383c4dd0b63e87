"""Write the files of a run folder atomically, and read those that several programs share.

Imports no torch.
"""

import contextlib
import csv
import fcntl
import logging
import os
import pickle
import platform
import socket
import stat
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from degla.errors import ConfigError

log = logging.getLogger(__name__)

_LOCK = ".lock"  # file in a locked folder that names the process which holds the lock
PARTIAL_SUFFIX = ".part"  # of files that are being written; a kill can leave them behind


@contextlib.contextmanager
def atomic_write(path: Path, flush_to_disk: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, and move it to ``path`` when the block ends without an error.

    Readers see the whole old file or the whole new one. Every process uses a temporary name of its own, so two
    processes may write the same file; the last one wins. The file gets the mode that ``open`` would give it, even
    if a library such as safetensors writes it with another one.

    Args:
        path: the file to be written; its folder is created.
        flush_to_disk: wait until the operating system has written the file and the folder entry to the disk, so
            that both survive a power cut.

    Raises:
        OSError: the file cannot be written. The temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}")
    try:
        partial.touch()
        mode = stat.S_IMODE(partial.stat().st_mode)
        yield partial
        partial.chmod(mode)
        if flush_to_disk:
            _fsync(partial)
        partial.replace(path)
        if flush_to_disk:
            _fsync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def lock_folder(folder: Path, key: str, remedy: str) -> Iterator[None]:
    """Keep other processes that lock a folder out of it until the block ends.

    The lock is a POSIX record lock. The kernel releases it when this process ends for any reason, and data-loading
    workers that outlive the process do not hold it.

    Args:
        folder: exists already.
        key: the config key that names the folder, for the message.
        remedy: what to do if another process holds the lock, for the message.

    Raises:
        ConfigError: another process holds the lock.
        OSError: the folder cannot be written.
    """
    with (folder / _LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read() or "another process"
            raise ConfigError(f"{key}: {folder} is in use by {holder}: {remedy}") from error
        except OSError as error:  # a file system without locks
            log.warning(f"{folder} cannot be locked ({error.strerror}): do not let two processes write to it")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def apply_default_modes(folder: Path) -> None:
    """Give every file in ``folder`` the mode that ``open`` would give it, which depends on the umask."""
    probe = folder / f".{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_metrics(path: Path) -> dict[str, dict[int, float]]:
    """Read ``metrics.csv`` of a run.

    Returns:
        Name -> step -> value, in order of steps. A resumed run repeats steps; the last value of a step counts.
        A last line without a line break is ignored, because it is still being written.
    """
    metrics: dict[str, dict[int, float]] = {}
    text = path.read_text(encoding="utf-8")
    for record in csv.DictReader(text[: text.rfind("\n") + 1].splitlines()):
        metrics.setdefault(record["name"], {})[int(record["step"])] = float(record["value"])
    return {name: dict(sorted(values.items())) for name, values in metrics.items()}


def provenance() -> dict[str, str]:
    """Return the commit, the versions of the packages that affect results, the machine and the device."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return {
        "commit": commit.stdout.strip() or "unknown",
        "python": platform.python_version(),
        **{name: version(name) for name in ("degla", "torch", "lightning", "open_clip_torch")},
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "device": _device(),
    }


def _device() -> str:
    torch = sys.modules.get("torch")  # not imported for this: a program without torch computes on the CPU
    return str(torch.cuda.get_device_name()) if torch is not None and torch.cuda.is_available() else "CPU"


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the usable checkpoint with the most steps in ``folder``, or None; log those that are not usable."""
    for path in sorted(folder.glob("step-*.ckpt"), reverse=True):
        if error := checkpoint_error(path):
            log.warning(f"{path} is ignored: {error}")
        else:
            return path
    return None


def checkpoint_error(path: Path) -> str:
    """Return why a checkpoint cannot be used; "" if it can.

    Every record of the file is compared with the CRC-32 that torch stored with it. The index has no checksum, so it
    is loaded as a test.
    """
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            if record := archive.testzip():
                return f"record {record} does not have the checksum that it was written with"
        torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError:
        return "it holds objects other than tensors and plain data, which could run code, so it is not loaded"
    except Exception as error:  # zipfile and torch raise a dozen types for a damaged index
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return f"it is truncated, damaged or not a checkpoint ({reason})"
    return ""
