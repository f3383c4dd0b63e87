"""One writer at a time for an index."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from degla.artifacts import lock_folder
from degla.errors import ConfigError


@contextlib.contextmanager
def lock_store(store: Path) -> Iterator[None]:
    """Keep other writers out of an index until the block ends; searches need no lock.

    The kernel releases the lock when this process ends for any reason.

    Args:
        store: folder of the index; is created.

    Raises:
        ConfigError: another process holds the lock, or the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            store.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_folder(store, "store", "wait until it has ended, or set store to another folder"))
        except OSError as error:
            raise ConfigError(
                f"store: {store} cannot be written ({error.strerror}): set store to another folder"
            ) from error
        yield
