"""Find the files below ``data_dir``, and check that they are unchanged since their download."""

import datetime
import hashlib
import json
import os
from pathlib import Path
from typing import Literal, NamedTuple

from tqdm import tqdm

from degla.artifacts import atomic_write
from degla.download.catalogue import DataSet, RemoteFile
from degla.download.transfer import disk_errors
from degla.errors import DataError

RECORD = ".degla-data.json"  # below data_dir: checksums and counts of what was downloaded

State = Literal["here", "missing", "incomplete", "changed"]


class Finding(NamedTuple):
    """The state of one file or folder of a data set."""

    path: Path
    state: State
    reason: str  # empty where it is here


class Inventory:
    """The files below ``data_dir``, and the record of earlier downloads.

    Args:
        data_dir: the folder in which sources and benchmarks look.

    Raises:
        DataError: the record cannot be read.
    """

    def __init__(self, data_dir: Path):
        self.data_dir = data_dir
        self._path = data_dir / RECORD
        self._record: dict[str, dict[str, str | int]] = {}
        if self._path.exists():
            try:
                self._record = json.loads(self._path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise DataError(f"{self._path} cannot be read ({error}): delete it to start a new record") from error

    def path(self, file: RemoteFile) -> Path:
        """Return the expected path of a file, or of the folder that it unpacks to.

        Args:
            file: of the catalogue.
        """
        return self.data_dir / file.target

    def find(self, file: RemoteFile, read_all: bool = False) -> Finding:
        """Look for one file or folder.

        Args:
            file: of the catalogue.
            read_all: compare checksums too, which reads the whole file.
        """
        path = self.path(file)
        if file.folder:
            return self._find_folder(file, path)
        if not path.is_file():
            return Finding(path, "missing", f"there is no file {path}")
        known = self._record.get(file.target, {})
        if "bytes" in known and path.stat().st_size != known["bytes"]:
            return Finding(path, "changed", f"{path} has {path.stat().st_size:,} bytes, not {known['bytes']:,}")
        if read_all:
            for kind, expected in _checksums(file, known):
                if (actual := checksum(path, kind)) != expected:
                    return Finding(path, "changed", f"{path} has the {kind} {actual}, not {expected}")
        return Finding(path, "here", "")

    def find_all(self, data_set: DataSet, read_all: bool = False) -> list[Finding]:
        """Look for every file of a data set.

        Args:
            data_set: of the catalogue.
            read_all: compare checksums too.
        """
        by_hand = [self.data_dir / path for path in data_set.expects]
        return [
            *(self.find(file, read_all) for file in data_set.files),
            *(
                Finding(path, *(("here", "") if path.exists() else ("missing", f"there is no {path}")))
                for path in by_hand
            ),
        ]

    def verify(self, file: RemoteFile, path: Path) -> str:
        """Compare a file that was just downloaded with the catalogue and with the record.

        Args:
            file: of the catalogue.
            path: where the bytes are.

        Returns:
            Its SHA-256.

        Raises:
            DataError: the checksum is wrong. The file is deleted.
        """
        for kind, expected in _checksums(file, self._record.get(file.target, {})):
            if (actual := checksum(path, kind)) != expected:
                path.unlink()
                raise DataError(
                    f"{file.url}: the {kind} is {actual}, but {expected} was expected; the file was deleted. If the "
                    f"publisher has changed it, set addresses to a file with the new checksum, or delete {self._path}"
                )
        return checksum(path, "sha256")

    def remember(self, file: RemoteFile, sha256: str, num_bytes: int) -> None:
        """Record a download, for later checks.

        Args:
            file: of the catalogue.
            sha256: of the file as it was downloaded.
            num_bytes: of the file.
        """
        entry: dict[str, str | int] = {"url": file.url, "sha256": sha256, "bytes": num_bytes}
        entry["at"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        if file.folder:
            entry["files"] = count_files(self.path(file))
        self._record[file.target] = entry
        with disk_errors(self._path), atomic_write(self._path) as partial:
            partial.write_text(json.dumps(self._record, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    def _find_folder(self, file: RemoteFile, path: Path) -> Finding:
        if not path.is_dir():
            return Finding(path, "missing", f"there is no folder {path}")
        expected = file.num_files or self._record.get(file.target, {}).get("files")
        found = count_files(path)
        if not found:
            return Finding(path, "missing", f"{path} is empty")
        if expected is not None and found < int(expected):
            return Finding(path, "incomplete", f"{path} holds {found:,} of {expected:,} files")
        return Finding(path, "here", "")


def _checksums(file: RemoteFile, known: dict[str, str | int]) -> list[tuple[Literal["sha256", "md5"], str]]:
    """Return every checksum that the file must have; the recorded one is used where none was published."""
    if file.sha256:
        return [("sha256", file.sha256)]
    if file.md5:
        return [("md5", file.md5)]
    return [("sha256", str(known["sha256"]))] if "sha256" in known else []


def checksum(path: Path, kind: Literal["sha256", "md5"]) -> str:
    """Return the checksum of a file as hexadecimal digits.

    Args:
        path: the file.
        kind: ``md5`` only where nothing better was published; it detects damage, not tampering.
    """
    digest = hashlib.new(kind, usedforsecurity=False)
    size = path.stat().st_size
    with (
        path.open("rb") as file,
        tqdm(total=size, desc=f"{kind} of {path.name}", unit="B", unit_scale=True, leave=False, disable=None) as bar,
    ):
        while chunk := file.read(2**22):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def count_files(folder: Path) -> int:
    """Return the number of files in a folder and the folders below it.

    Args:
        folder: where to count.
    """
    return sum(len(files) for _, _, files in os.walk(folder))
