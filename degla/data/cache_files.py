"""What all cache files share: a lock, the setting aside of damaged ones, and errors of the disk as one sentence."""

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from degla.artifacts import PARTIAL_SUFFIX
from degla.errors import DataError

log = logging.getLogger(__name__)

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def writing(path: Path, setting: str) -> Iterator[None]:
    """Hold the lock of a cache file, and turn an error of the disk into a sentence.

    The kernel releases the lock when this process ends for any reason.

    Args:
        path: the file; its folder is created.
        setting: config key of the folder, such as ``data.cache_dir``.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("a", encoding="utf-8") as file:
            if _lock(file.fileno()):
                # Nobody else is writing this file now, so a partial file is one that a kill has left.
                for partial in path.parent.glob(f".{path.name}.*{PARTIAL_SUFFIX}"):
                    partial.unlink(missing_ok=True)
            yield
    except OSError as error:
        remedy = "free some space" if error.errno in _FULL_DISK else "make its folder writable"
        reason = os.strerror(error.errno) if error.errno else error
        raise DataError(
            f"{setting}: {path} cannot be written ({reason}): {remedy}, or set {setting} to another folder"
        ) from error


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:  # a file system without locks: two processes may write the same file, and the last one wins
        return False
    return True


def set_aside(path: Path, setting: str, reason: str) -> None:
    """Rename a damaged file to ``.bad``, so that it is written again, and say so.

    Args:
        path: the file.
        setting: config key of its folder.
        reason: what is wrong with it.
    """
    log.warning(f"{setting}: {path} is not used: {reason}; it is set aside as {path.name}.bad and written again")
    path.replace(path.with_name(f"{path.name}.bad"))
