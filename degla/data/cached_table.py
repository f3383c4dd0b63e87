"""Memory-mapped tables that are written once; each has a file beside it with its checksum and what wrote it.

A file that does not have its checksum is named, set aside as ``.bad`` and written again. The CRC-32 of a whole file
takes about 0.4 s per GiB. Files above ``_ALWAYS_CHECKED`` bytes, which hold images, are read in full once a week only;
in between, their size and modification time must be those of the last check.
"""

import contextlib
import itertools
import json
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.arrow_reader import ArrowReader

from degla.artifacts import atomic_write, provenance
from degla.data.cache_files import set_aside, writing
from degla.errors import DataError

FORMAT = 1  # of the file with the checksum
_ALWAYS_CHECKED = 2 * 2**30  # bytes of the largest file that is read in full at every start
_CHECK_EVERY = 7 * 24 * 3600  # seconds from one full check of a larger file to the next
_BLOCK = 2**22  # bytes that are read at a time
_ROWS_PER_BATCH = 1000  # records that are held before they are written
_SETTING = "data.cache_dir"

Record = dict[str, Any]


def cached_table(
    records: Iterable[Record], features: datasets.Features, cache_dir: str | None, key: str
) -> datasets.Dataset:
    """Return the table that is kept under a key; write it first if it is missing or damaged.

    Several processes may ask for the same table at once; one of them writes it, and the others wait.

    Args:
        records: rows of the table; read only where the table has to be written.
        features: columns and their types.
        cache_dir: folder of the tables; None is the default of ``datasets``.
        key: identity of the table, a hash of everything that its rows depend on.

    Raises:
        DataError: the table cannot be written, or its rows cannot be read.
    """
    batches = _batches(_read(records), features.arrow_schema)
    return cached_batches(batches, features, cache_dir, key)


def cached_batches(
    batches: Iterable[pa.Table], features: datasets.Features, cache_dir: str | None, key: str
) -> datasets.Dataset:
    """Return the table that is kept under a key, as ``cached_table`` does, from whole columns.

    Args:
        batches: tables in the schema of ``features``; read only where the table has to be written.
        features: columns and their types.
        cache_dir: folder of the tables; None is the default of ``datasets``.
        key: identity of the table, a hash of everything that its rows depend on.

    Raises:
        DataError: the table cannot be written, or its rows cannot be read.
    """
    path = Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser() / "degla" / f"{key[:32]}.arrow"
    problem = _problem(path)
    if problem is not None:
        with writing(path, _SETTING):
            problem = _problem(path)  # another process may have written it meanwhile
            if problem:
                set_aside(path, _SETTING, problem)
            if problem is not None:
                _write(path, batches, features.arrow_schema)
    return datasets.Dataset(ArrowReader.read_table(str(path)), fingerprint=key[:32])


def _write(path: Path, batches: Iterable[pa.Table], schema: pa.Schema) -> None:
    # Without a flush to disk, a power cut can leave a file of the right name and length that holds zeros.
    with atomic_write(path, flush_to_disk=True) as partial:
        with partial.open("wb") as file, pa.ipc.new_stream(file, schema) as writer:
            for batch in batches:
                writer.write_table(batch)
        checksum = _checksum(partial)
    # The table comes first: a kill in between leaves a table without a checksum, which is written again.
    _write_description(path, {"crc32": checksum, "provenance": provenance()})


def _batches(records: Iterable[Record], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield records in tables. pyarrow converts a column at a time, which ``datasets`` does one row at a time."""
    records = iter(records)
    while rows := list(itertools.islice(records, _ROWS_PER_BATCH)):
        yield pa.Table.from_pylist(rows, schema=schema)


def _write_description(path: Path, description: dict[str, Any]) -> None:
    status = path.stat()
    description |= {"format": FORMAT, "bytes": status.st_size}
    description["checked"] = {"seconds": time.time(), "mtime_ns": status.st_mtime_ns}
    with atomic_write(_description_path(path), flush_to_disk=True) as partial:
        partial.write_text(json.dumps(description, indent=1), encoding="utf-8")


def _description_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _problem(path: Path) -> str | None:
    """Return why a table cannot be used: "" if there is none yet. None means that it can be used."""
    if not path.is_file():
        return ""
    try:
        description = json.loads(_description_path(path).read_text(encoding="utf-8"))
        is_known = description["format"] == FORMAT
        size, checksum, checked = int(description["bytes"]), description["crc32"], description["checked"]
        seconds, mtime_ns = float(checked["seconds"]), checked["mtime_ns"]
    except FileNotFoundError:
        return "it has no checksum, because the process that wrote it was stopped"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"{_description_path(path).name}, which holds its checksum, cannot be read ({error})"
    status = path.stat()
    if not is_known:
        return "its checksum is of another version of degla"
    if status.st_size != size:
        return f"it has {status.st_size} bytes of {size}"
    is_recent = 0 <= time.time() - seconds < _CHECK_EVERY and mtime_ns == status.st_mtime_ns
    if size > _ALWAYS_CHECKED and is_recent:
        return None
    if _checksum(path) != checksum:
        return "its content does not have the checksum that it was written with"
    if size > _ALWAYS_CHECKED:
        with contextlib.suppress(OSError):  # a folder that is read-only is checked at every start
            _write_description(path, description)
    return None


def _checksum(path: Path) -> str:
    """Return the CRC-32 of a file, as in zip archives and in torch's checkpoints."""
    value = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)
    return f"{value:08x}"


def _read(records: Iterable[Record]) -> Iterator[Record]:
    """Yield records; an error of the disk becomes one of the data, so that it is not taken for one of the cache."""
    try:
        yield from records
    except OSError as error:
        path = error.filename or "a file of the data set"
        raise DataError(f"{path} cannot be read ({error.strerror or error}); make it readable") from error
