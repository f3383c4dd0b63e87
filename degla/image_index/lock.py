"""One writer at a time for an index."""

import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from degla.errors import ConfigError

log = logging.getLogger(__name__)


@contextlib.contextmanager
def lock_store(store: Path) -> Iterator[None]:
    """Keep other writers out of an index until the block ends; searches need no lock.

    The kernel releases the lock when this process ends for any reason.

    Args:
        store: folder of the index; is created.

    Raises:
        ConfigError: another process holds the lock, or the folder cannot be written.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
        file = (store / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"store: {store} cannot be written ({error.strerror}): set store to another folder"
        ) from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read() or "another process"
            raise ConfigError(
                f"store: {store} is in use by {holder}: wait until it has ended, or set store to another folder"
            ) from error
        except OSError as error:  # a file system without locks
            log.warning(f"{store} cannot be locked ({error.strerror}): do not start two degla-search for it")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
