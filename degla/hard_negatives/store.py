"""The store of answers: files of JSON lines that are only appended to, so that no answer is lost or asked for twice."""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# A location holds the number of a file and, in its low bits, the offset of a line in that file.
_OFFSET_BITS = 44
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1

_FIELD_TYPES = {
    "key": str, "caption": str, "kind": str, "texts": list, "failure": str, "is_final": bool, "input_tokens": int,
    "output_tokens": int,
}  # fmt: skip

_SYNC_EVERY = 256  # lines between two calls of fsync


class Answer(NamedTuple):
    """The answer for one caption, kind and attempt."""

    key: str
    caption: str
    kind: str
    texts: list[str]  # not checked yet
    failure: str = ""  # why there are no negatives in it
    is_final: bool = True  # False where the next run asks again, because the server was not available
    input_tokens: int = 0
    output_tokens: int = 0


def answer_key(caption: str, kind: str, prompt: str, model: str, seed: int, count: int, attempt: int = 0) -> str:
    """Return the key of an answer: a hash, as 32 hexadecimal digits, of everything that decides it.

    Args:
        caption: the original caption.
        kind: a key of ``KINDS``.
        prompt: version of the prompt or rule.
        model: name of the model or rules.
        seed: seed of the writer.
        count: number of negatives that are asked for.
        attempt: 0 for the first request.
    """
    content = json.dumps([caption, kind, prompt, model, seed, count, attempt], ensure_ascii=False)
    return hashlib.sha256(content.encode(errors="replace")).hexdigest()[:32]


class Store:
    """A folder of JSON lines.

    Every process appends to a file of its own, so the jobs of an array can share it.

    One system call writes a line. ``kill -9`` loses at most the line that is being written, and the reader skips
    such a truncated line. A regular ``fsync`` limits what a power cut can lose.

    Args:
        folder: created with the first answer.

    Attributes:
        num_truncated: lines that could not be read and were skipped.
        tokens: number of input and of output tokens of all answers, those of earlier runs included.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.num_truncated = 0
        self.tokens = (0, 0)
        self._descriptor: int | None = None
        self._locations: dict[bytes, int] = {}
        self._files: list[Path] = []
        self._num_written = 0
        for path in sorted(folder.glob("*.jsonl")):
            for offset, answer in self._answers(path):
                self._count_tokens(answer)
                if answer.is_final:
                    self._locations[bytes.fromhex(answer.key)] = len(self._files) << _OFFSET_BITS | offset
            self._files.append(path)

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._locations

    def __len__(self) -> int:
        return len(self._locations)

    def get(self, key: str) -> Answer | None:
        """Return the final answer with this key, or None."""
        location = self._locations.get(bytes.fromhex(key))
        if location is None:
            return None
        with self._files[location >> _OFFSET_BITS].open("rb") as file:
            file.seek(location & _OFFSET_MASK)
            return _parse_line(file.readline())

    def add(self, answer: Answer) -> None:
        """Append an answer.

        One that is not final is kept for the report only.

        Raises:
            ValueError: the line could not be read again. Nothing is written then.
        """
        line = (json.dumps(answer._asdict(), ensure_ascii=False) + "\n").encode(errors="replace")
        _parse_line(line)
        if self._descriptor is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._files.append(self.folder / f"{uuid.uuid4().hex}.jsonl")
            self._descriptor = os.open(self._files[-1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            self._num_written = 0
        offset = os.lseek(self._descriptor, 0, os.SEEK_END)
        try:
            num_bytes = 0
            while num_bytes < len(line):
                num_bytes += os.write(self._descriptor, line[num_bytes:])
        except OSError:  # a full disk: the next answer must not continue half a line
            os.ftruncate(self._descriptor, offset)
            raise
        self._count_tokens(answer)
        if answer.is_final:
            self._locations[bytes.fromhex(answer.key)] = len(self._files) - 1 << _OFFSET_BITS | offset
        self._num_written += 1
        if self._num_written % _SYNC_EVERY == 0:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Write everything to the disk and close the file.

        ``add`` opens a new one.
        """
        if self._descriptor is not None:
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def failures(self) -> Iterator[Answer]:
        """Yield the answers that are not final and have no final answer under the same key."""
        for path in self._files:
            for _, answer in self._answers(path):
                if not answer.is_final and answer.key not in self:
                    yield answer

    def _count_tokens(self, answer: Answer) -> None:
        self.tokens = (self.tokens[0] + answer.input_tokens, self.tokens[1] + answer.output_tokens)

    def _answers(self, path: Path) -> Iterator[tuple[int, Answer]]:
        """Yield the offset and the answer of every line that can be read."""
        offset = 0
        with path.open("rb") as file:
            for line in file:
                try:
                    yield offset, _parse_line(line)
                except ValueError:
                    self.num_truncated += 1
                offset += len(line)


def _parse_line(line: bytes) -> Answer:
    """Parse and check a line.

    Raises:
        ValueError: the line is truncated, is not JSON, or does not hold an answer.
    """
    if not line.endswith(b"\n"):
        raise ValueError("the line is truncated")
    try:
        answer = Answer(**json.loads(line))
        bytes.fromhex(answer.key)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    for name, value_type in _FIELD_TYPES.items():
        if type(getattr(answer, name)) is not value_type:
            raise ValueError(f"{name} is not of type {value_type.__name__}")
    if not all(isinstance(text, str) for text in answer.texts):
        raise ValueError("a text is not a string")
    return answer
