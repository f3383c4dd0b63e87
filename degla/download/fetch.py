"""Bring a data set into the layout that sources and benchmarks read."""

import contextlib
import fcntl
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from degla.download.catalogue import DataSet, RemoteFile
from degla.download.inventory import Inventory
from degla.download.transfer import disk_errors, download
from degla.download.unpack import unpack
from degla.errors import DataError

log = logging.getLogger(__name__)

STAGING_FOLDER = ".degla-downloads"  # below data_dir: partial files and archives


def fetch(
    name: str,
    data_set: DataSet,
    inventory: Inventory,
    force: bool = False,
    retries: int = 5,
    timeout_seconds: float = 60.0,
    keep_archives: bool = False,
) -> int:
    """Download the missing files of a data set, then verify and unpack them.

    Args:
        name: of the data set, for messages.
        data_set: with the addresses.
        inventory: of ``data_dir``.
        force: download again the files that exist.
        retries: of each file, see ``download``.
        timeout_seconds: of each read from the server.
        keep_archives: keep archives after they were unpacked.

    Returns:
        How many files were downloaded.

    Raises:
        DataError: a file cannot be downloaded, is not what was expected, or cannot be written.
    """
    fetched = 0
    for file in data_set.files:
        if not force and inventory.find(file).state == "here":
            log.info(f"{name}: {inventory.path(file)} is here already")
            continue
        try:
            _fetch_file(file, inventory, retries, timeout_seconds, keep_archives)
        except DataError as error:
            raise DataError(f"{name}: {error} (by hand: {data_set.source})") from error
        fetched += 1
    return fetched


def _fetch_file(
    file: RemoteFile, inventory: Inventory, retries: int, timeout_seconds: float, keep_archives: bool
) -> None:
    # One folder for each place in the layout, because files of two data sets may have the same name.
    staging = inventory.data_dir / STAGING_FOLDER / file.target.replace("/", "--")
    part = staging / Path(file.file_name).name
    if not part.exists():
        download(file.url, part, retries=retries, timeout_seconds=timeout_seconds)
    sha256 = inventory.verify(file, part)
    num_bytes = part.stat().st_size
    target = inventory.data_dir / file.to
    if file.unpack:
        log.info(f"unpacking {part.name} into {target}")
        unpack(part, file.unpack, target, scratch=staging / "unpacked", strip=file.strip)
    else:
        with disk_errors(target):
            inventory.path(file).parent.mkdir(parents=True, exist_ok=True)
            part.replace(inventory.path(file))
    if (finding := inventory.find(file)).state in ("missing", "incomplete"):
        raise DataError(f"{part} was unpacked into {target}, but {finding.reason}")
    inventory.remember(file, sha256, num_bytes)
    if not keep_archives:
        shutil.rmtree(staging, ignore_errors=True)
    log.info(f"{inventory.path(file)}: {num_bytes:,} bytes, sha256 {sha256}")


@contextlib.contextmanager
def lock_data_dir(data_dir: Path) -> Iterator[None]:
    """Lock ``data_dir`` against a second program that downloads into it.

    Args:
        data_dir: the folder of all data.

    Raises:
        DataError: another program holds the lock.
    """
    lock = data_dir / STAGING_FOLDER / "lock"
    with disk_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"another degla-data is downloading into {data_dir}: wait until it has ended") from error
        yield
