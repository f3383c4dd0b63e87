"""The output folder: one run at a time, and errors of the disk as one sentence."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from degla.errors import ConfigError

_DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_IS_LOCKED = {errno.EWOULDBLOCK, errno.EACCES}


@contextlib.contextmanager
def lock_output(output: Path, shard: tuple[int, int] | None) -> Iterator[None]:
    """Lock the output folder for this process.

    Shards share the folder with each other only, and each shard runs in one process at a time. The operating
    system releases the locks when the process ends, however it ends.

    Args:
        output: the output folder.
        shard: index and number of shards; None for the whole input.

    Raises:
        ConfigError: another process holds the folder or this shard.
    """
    with contextlib.ExitStack() as stack:
        folder = output / "log"
        folder.mkdir(parents=True, exist_ok=True)
        hint = "wait for it, or set another output"
        kind = fcntl.LOCK_EX if shard is None else fcntl.LOCK_SH
        _lock(stack, folder / "lock", kind, f"another degla-negatives writes to {output}: {hint}")
        if shard is not None:
            name = f"{shard[0]}/{shard[1]}"
            path = folder / f"lock-{shard[0]}-of-{shard[1]}"
            _lock(stack, path, fcntl.LOCK_EX, f"another degla-negatives writes shard {name} of {output}: {hint}")
        yield


@contextlib.contextmanager
def explain_disk_errors(output: Path) -> Iterator[None]:
    """Turn an error of the file system into one sentence.

    Args:
        output: the output folder.

    Raises:
        ConfigError: the disk is full, or a file cannot be read or written.
    """
    try:
        yield
    except (ConnectionError, TimeoutError, BrokenPipeError):  # of the network or the console
        raise
    except OSError as error:
        if error.errno in _DISK_IS_FULL or os.strerror(errno.ENOSPC) in str(error):  # pyarrow sets no errno
            raise ConfigError(
                f"the disk is full while writing to {output}: free some space, then repeat the command, which resumes"
            ) from error
        path, reason = error.filename or output, error.strerror or error
        raise ConfigError(
            f"{path} cannot be read or written ({reason}): correct that or set another output, then repeat the "
            "command, which resumes"
        ) from error


def _lock(stack: contextlib.ExitStack, path: Path, kind: int, message: str) -> None:
    file = stack.enter_context(path.open("w"))
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _IS_LOCKED:
            raise ConfigError(message) from error
        print(f"{path} cannot be locked ({error.strerror}): do not start a second degla-negatives for this folder")
