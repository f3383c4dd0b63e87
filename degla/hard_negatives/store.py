"""Answers on disk: append-only, one line each, never lost and never asked for twice."""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_PLACE_BITS = 44


class Answer(NamedTuple):
    """What came back for one caption, kind and attempt."""

    key: str
    caption: str
    kind: str
    texts: list[str]  # unchecked
    failure: str = ""  # why there are none
    is_final: bool = True  # False where the next run should ask again: the server was not to be had
    input_tokens: int = 0
    output_tokens: int = 0


def answer_key(caption: str, kind: str, prompt: str, model: str, seed: int, count: int, attempt: int = 0) -> str:
    """What an answer is filed under: 32 hexadecimal digits."""
    known = json.dumps([caption, kind, prompt, model, seed, count, attempt], ensure_ascii=False)
    return hashlib.sha256(known.encode(errors="replace")).hexdigest()[:32]


class Store:
    """A folder of JSON lines. Each process appends to a file of its own, so jobs of an array may share the folder.

    A line is written by one call to the system: ``kill -9`` loses at most the line being written, which the reader
    leaves out. ``fsync`` every so many lines bounds what a power cut can take.

    Args:
        folder: made where it is missing.

    Attributes:
        num_torn: unfinished lines that were found and left out.
        tokens: input and output tokens of all answers, those of earlier runs included.
    """

    _SYNC_EVERY = 256

    def __init__(self, folder: Path):
        self.folder = folder
        self.num_torn = 0
        self.tokens = (0, 0)
        self._file: int | None = None
        self._places: dict[bytes, int] = {}  # key -> number of the file, and in the low bits where the line begins
        self._files: list[Path] = []
        self._written = 0
        for path in sorted(folder.glob("*.jsonl")):
            for place, answer in self._lines(path):
                self._count(answer)
                if answer.is_final:
                    self._places[bytes.fromhex(answer.key)] = len(self._files) << _PLACE_BITS | place
            self._files.append(path)

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._places

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> Answer | None:
        """The final answer, or None."""
        found = self._places.get(bytes.fromhex(key))
        if found is None:
            return None
        with self._files[found >> _PLACE_BITS].open("rb") as file:
            file.seek(found & (1 << _PLACE_BITS) - 1)
            return _read(file.readline())

    def add(self, answer: Answer) -> None:
        """Append; what is not final is kept for the record only."""
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._files.append(self.folder / f"{uuid.uuid4().hex}.jsonl")
            self._file = os.open(self._files[-1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            self._written = 0
        line = (json.dumps(answer._asdict(), ensure_ascii=False) + "\n").encode(errors="replace")
        place = os.lseek(self._file, 0, os.SEEK_END)
        done = 0
        while done < len(line):
            done += os.write(self._file, line[done:])
        self._count(answer)
        if answer.is_final:
            self._places[bytes.fromhex(answer.key)] = len(self._files) - 1 << _PLACE_BITS | place
        self._written += 1
        if self._written % self._SYNC_EVERY == 0:
            os.fsync(self._file)

    def close(self) -> None:
        """Bring everything to the disk."""
        if self._file is not None:
            os.fsync(self._file)
            os.close(self._file)
            self._file = None

    def failures(self) -> Iterator[Answer]:
        """Answers that were not final, for the report."""
        for path in self._files:
            for _, answer in self._lines(path):
                if not answer.is_final and answer.key not in self:
                    yield answer

    def _count(self, answer: Answer) -> None:
        self.tokens = (self.tokens[0] + answer.input_tokens, self.tokens[1] + answer.output_tokens)

    def _lines(self, path: Path) -> Iterator[tuple[int, Answer]]:
        place = 0
        with path.open("rb") as file:
            for line in file:
                try:
                    yield place, _read(line)
                except ValueError:
                    self.num_torn += 1
                place += len(line)


def _read(line: bytes) -> Answer:
    if not line.endswith(b"\n"):
        raise ValueError("torn")
    try:
        return Answer(**json.loads(line))
    except TypeError as error:
        raise ValueError(str(error)) from error
