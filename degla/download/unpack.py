"""Unpack untrusted archives: regular files only, inside the target folder, with a limit on their total size."""

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Literal, NamedTuple

from degla.download.transfer import disk_errors
from degla.errors import DataError

_EXPECTED_RATIO = 50  # images hardly compress; an archive that grows more than this is a zip bomb
_ALWAYS_ALLOWED = 2**30  # bytes, for small archives of text
_NOT_DATA = ("__MACOSX", ".DS_Store")  # what one operating system adds to its archives


class _Member(NamedTuple):
    parts: tuple[str, ...]
    size: int
    open: IO[bytes]


def unpack(archive: Path, kind: Literal["zip", "tar"], target: Path, scratch: Path, strip: bool = False) -> None:
    """Unpack an archive into a folder, which may already hold files.

    The files are written to ``scratch`` first, so that a killed run leaves no incomplete folder in the layout.

    Args:
        archive: a ``.zip``, or a ``.tar`` with any compression that Python reads.
        kind: which of the two.
        target: the folder; it is created. Files of the same name are replaced.
        scratch: an empty or missing folder on the same disk; it is removed.
        strip: leave out the one folder at the top of the archive, whatever its name.

    Raises:
        DataError: the archive is damaged, holds a link or a path outside the folder, or the disk is full.
    """
    with disk_errors(scratch):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
    allowed = max(_ALWAYS_ALLOWED, _EXPECTED_RATIO * archive.stat().st_size)
    written = 0
    try:
        with _errors_of_archive(archive):
            for member in (_zip_members if kind == "zip" else _tar_members)(archive):
                written += member.size
                if written > allowed:
                    raise DataError(f"{archive} unpacks to more than {allowed:,} bytes, which is too much; delete it")
                _write(member, scratch)
        with disk_errors(target):
            _merge(_top(archive, scratch) if strip else scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as content:
        for info in content.infolist():
            mode = info.external_attr >> 16
            if info.is_dir():
                continue
            if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise DataError(f"{archive} holds {info.filename}, which is a link or a device; it is not unpacked")
            if parts := _parts(archive, info.filename):
                with content.open(info) as file:
                    yield _Member(parts, info.file_size, file)


def _tar_members(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive, mode="r:*") as content:
        for info in content:
            if info.isdir():
                continue
            file = content.extractfile(info) if info.isreg() else None
            if file is None:
                raise DataError(f"{archive} holds {info.name}, which is a link or a device; it is not unpacked")
            if parts := _parts(archive, info.name):
                with file:
                    yield _Member(parts, info.size, file)
        # The checksum of the compression is at its end, which tarfile does not read.
        while content.fileobj is not None and content.fileobj.read(2**20):
            pass


def _parts(archive: Path, name: str) -> tuple[str, ...]:
    """Return the folders and the name of a member; empty if it is not data."""
    parts = tuple(part for part in PurePosixPath(name).parts if part != ".")
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or ":" in (parts[:1] or ("",))[0]:
        raise DataError(f"{archive} holds {name!r}, a path outside its folder; it is not unpacked")
    return () if set(parts) & set(_NOT_DATA) else parts


def _write(member: _Member, folder: Path) -> None:
    path = folder.joinpath(*member.parts)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("wb")
    with file:
        while chunk := member.open.read(2**20):
            with disk_errors(path):
                file.write(chunk)
        with disk_errors(path):
            file.flush()


def _top(archive: Path, scratch: Path) -> Path:
    entries = list(scratch.iterdir())
    if len(entries) != 1 or not entries[0].is_dir():
        raise DataError(f"{archive} was expected to hold one folder, but holds {len(entries)} entries at its top")
    return entries[0]


def _merge(source: Path, target: Path) -> None:
    """Move files and folders, one rename for each folder that is new."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        source.rename(target)
        return
    for entry in source.iterdir():
        if entry.is_dir() and (target / entry.name).is_dir():
            _merge(entry, target / entry.name)
        else:
            entry.replace(target / entry.name)


@contextmanager
def _errors_of_archive(archive: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{archive} is damaged or not the expected archive ({error}): delete it") from error
    except OSError as error:  # gzip and lzma report damage as one
        raise DataError(f"{archive} cannot be read ({error}): delete it") from error
