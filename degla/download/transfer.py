"""Download one file over HTTP, with resume, retries and a check that it is complete."""

import errno
import http.client
import json
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tqdm import tqdm

from degla.artifacts import PARTIAL_SUFFIX, atomic_write
from degla.errors import DataError

log = logging.getLogger(__name__)

_CHUNK = 2**20  # bytes read at a time
_RETRIED_STATUS = {408, 425, 429, 500, 502, 503, 504}  # a server that is busy or restarting
_LONGEST_WAIT_SECONDS = 60.0  # a server that asks for more ends the download
_DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class _Retry(Exception):
    """A failure after which another attempt may succeed."""

    def __init__(self, reason: str, wait_seconds: float = 0.0):
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class _Progress(NamedTuple):
    """The notes on a partial file: the server's version of the file, and its full size."""

    url: str
    validator: str | None  # ETag or Last-Modified
    total: int | None  # bytes


def download(
    url: str,
    path: Path,
    retries: int = 5,
    timeout_seconds: float = 60.0,
    first_wait_seconds: float = 1.0,
    show_progress: bool | None = None,
) -> None:
    """Download ``url`` to ``path``.

    The bytes are kept beside ``path`` under another name until all are there. A later call resumes them, unless the
    server says that the file has changed since.

    Args:
        url: http or https.
        path: the file; its folder is created.
        retries: attempts in a row without a new byte before the download fails.
        timeout_seconds: of each read from the server.
        first_wait_seconds: before the second attempt; doubled for each further one.
        show_progress: None shows a bar where the console is a terminal.

    Raises:
        DataError: the server refuses, sends a web page or something shorter, or the disk is full.
    """
    partial = path.with_name(f"{path.name}{PARTIAL_SUFFIX}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        size_before = _size(partial)
        try:
            _attempt(url, partial, path.name, timeout_seconds, show_progress)
            break
        except _Retry as failure:
            failures = 1 if _size(partial) > size_before else failures + 1
            if failures > retries:
                raise DataError(
                    f"{url}: {failure} after {failures} attempts; {_size(partial):,} bytes are kept, and the same "
                    "command resumes"
                ) from failure
            wait = max(failure.wait_seconds, min(first_wait_seconds * 2 ** (failures - 1), _LONGEST_WAIT_SECONDS))
            log.warning(f"{path.name}: {failure}; the next attempt is in {wait:g} s")
            time.sleep(wait)
    with disk_errors(path):
        partial.replace(path)
        _notes(partial).unlink(missing_ok=True)


def _attempt(url: str, partial: Path, name: str, timeout: float, show_progress: bool | None) -> None:
    """Make one request and write the bytes of its response."""
    progress = _read_progress(partial, url)
    offset = _size(partial)
    headers = {"User-Agent": "degla-data", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if progress.validator:
            headers["If-Range"] = progress.validator  # a file that has changed is sent from its beginning
    try:
        with _opener().open(urllib.request.Request(url, headers=headers), timeout=timeout) as response:
            offset, total = _range(response, offset)
            _refuse_web_page(response, url, name)
            if offset and progress.total not in (None, total):
                offset = 0  # a different file, from a server that sends no validator
                _discard(partial)
                raise _Retry("the file has changed on the server")
            with disk_errors(partial):
                _write_progress(partial, _Progress(url, _validator(response), total))
                _refuse_small_disk(partial, (total or 0) - offset)
            _copy(response, partial, offset, total, name, show_progress)
    except urllib.error.HTTPError as error:
        error.close()
        _explain_status(error, url, partial, offset)
    except (OSError, http.client.HTTPException) as error:  # URLError, resets and time-outs are OSErrors
        reason = getattr(error, "reason", None) or error
        raise _Retry(f"the connection failed ({reason or type(error).__name__})") from error


def _copy(response: Any, partial: Path, offset: int, total: int | None, name: str, show_progress: bool | None) -> None:
    disable = None if show_progress is None else not show_progress
    with (
        _open(partial, offset) as file,
        tqdm(total=total, initial=offset, desc=name, unit="B", unit_scale=True, disable=disable) as bar,
    ):
        while chunk := response.read(_CHUNK):
            with disk_errors(partial):
                file.write(chunk)
            bar.update(len(chunk))
        with disk_errors(partial):
            file.flush()
            os.fsync(file.fileno())
    if total is not None and (size := _size(partial)) < total:
        raise _Retry(f"the connection ended after {size:,} of {total:,} bytes")


def _open(partial: Path, offset: int) -> BinaryIO:
    with disk_errors(partial):
        file = partial.open("r+b" if offset else "wb")
        file.seek(offset)
        file.truncate()
        return file


def _range(response: Any, offset: int) -> tuple[int, int | None]:
    """Return the offset of the response's first byte, and the full size if the server reports it."""
    length = response.headers.get("Content-Length")
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if match is None or int(match.group(1)) != offset:
            raise _Retry(f"the server did not send the bytes from {offset:,} on")
        return offset, None if match.group(2) == "*" else int(match.group(2))
    return 0, int(length) if length and length.isdigit() else None


def _explain_status(error: urllib.error.HTTPError, url: str, partial: Path, offset: int) -> None:
    """Return if the partial file is already complete; otherwise raise."""
    if error.code == 416 and offset:  # nothing after the last byte
        match = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", "").strip())
        if match and int(match.group(1)) == offset:
            return
        _discard(partial)
        raise _Retry("the partial file is longer than the server's file, and was discarded")
    if error.code not in _RETRIED_STATUS:
        raise DataError(f"{url}: the server answers {error.code} {error.reason}")
    asked = error.headers.get("Retry-After", "")
    wait = float(asked) if asked.isdigit() else 0.0
    if wait > _LONGEST_WAIT_SECONDS:
        raise DataError(f"{url}: the server answers {error.code} and asks to wait {wait:g} s; try again later")
    raise _Retry(f"the server answers {error.code} {error.reason}", wait)


def _refuse_web_page(response: Any, url: str, name: str) -> None:
    """Refuse a web page: login forms and warnings of file hosts also come with status 200."""
    if response.headers.get_content_type() == "text/html" and not name.endswith((".html", ".htm")):
        raise DataError(f"{url}: the server sends a web page instead of {name}")


def _refuse_small_disk(partial: Path, needed: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if needed > free:
        raise DataError(
            f"the disk of {partial.parent} has {free:,} bytes free, and {needed:,} more are needed: free some space or "
            "set data_dir"
        )


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an error of the file system into one sentence.

    Args:
        path: the file that is written.

    Raises:
        DataError: the disk is full, or the file cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_IS_FULL:
            raise DataError(
                f"the disk is full while writing {path}: free some space, then repeat the command, which resumes"
            ) from error
        raise DataError(f"{path} cannot be written ({error.strerror or error}): check data_dir") from error


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener for http and https only; the default one would also follow a redirect to ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _validator(response: Any) -> str | None:
    tag = response.headers.get("ETag")
    if tag and not tag.startswith("W/"):  # a weak tag does not promise equal bytes
        return str(tag)
    changed = response.headers.get("Last-Modified")
    return str(changed) if changed else None


def _notes(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _read_progress(partial: Path, url: str) -> _Progress:
    """Read the notes on a partial file; without them, or for another address, its bytes cannot be used."""
    try:
        progress = _Progress(**json.loads(_notes(partial).read_text(encoding="utf-8")))
        if progress.url == url:
            return progress
    except (OSError, ValueError, TypeError):
        pass
    with disk_errors(partial):
        _discard(partial)
    return _Progress(url, None, None)


def _write_progress(partial: Path, progress: _Progress) -> None:
    with atomic_write(_notes(partial)) as file:
        file.write_text(json.dumps(progress._asdict()), encoding="utf-8")


def _discard(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _notes(partial).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
