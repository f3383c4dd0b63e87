"""Hard negatives by a language model through files: OpenAI's batch format."""

import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from degla.bounds import bounded, number, whole
from degla.errors import ConfigError
from degla.hard_negatives.answer_index import Verdict
from degla.hard_negatives.llm.base import LanguageModelWriter, Structured
from degla.hard_negatives.llm.completion import NoCompletion, decode_json, error_message, parse_completion
from degla.hard_negatives.progress import Progress
from degla.hard_negatives.store import Answer, Store
from degla.hard_negatives.writers import Tasks

# An answer, or a request that the server will never take. Every other status is asked for again.
_FINAL_STATUSES = {200, 400, 413, 422}


class Location(NamedTuple):
    """The position of a line."""

    path: str
    offset: int


class BatchWriter(LanguageModelWriter):
    """Writes request files for ``vllm run-batch`` or a batch API, and reads the files of answers.

    The files of ``answers`` are read first. Requests that are still open are then written to ``requests``,
    including second attempts for captions whose answers were bad. The two steps can be repeated until nothing is left.

    Args:
        kinds: the kinds that are written.
        count: number of negatives of each kind.
        seed: sent with the request; each further attempt sends the next one.
        model: the name by which the server knows the model.
        requests: folder of the request files.
        answers: files or patterns of the answers.
        max_requests: requests in one file; batch APIs accept 50,000.
        prompts: folder of your own ``<kind>.yaml`` files; None uses ours.
        temperature: sampling temperature.
        max_tokens: limit of one answer.
        structured: how the server is told to answer in JSON.
        attempts: how often a caption is asked about while its answers are bad.
        tagger: word classes for the checks.
    """

    supports_shards = False  # max_requests splits the requests already

    @bounded("negatives")
    def __init__(
        self,
        kinds: Sequence[str],
        count: int,
        seed: int,
        model: str | None = None,
        requests: str = "requests",
        answers: Sequence[str] = (),
        max_requests: Annotated[int, whole(1)] = 50_000,
        prompts: str | None = None,
        temperature: Annotated[float, number(0)] = 0.7,
        max_tokens: Annotated[int, whole(1)] = 256,
        structured: Structured = "json_schema",
        attempts: Annotated[int, whole(1)] = 2,
        tagger: str = "hanta",
    ):
        super().__init__(kinds, count, seed, model, prompts, temperature, max_tokens, structured, attempts, tagger)
        self.requests = Path(requests)
        self.answers = tuple(answers)
        self.max_requests = max_requests

    def write(self, tasks: Tasks, store: Store, progress: Progress) -> None:
        """Read the answers, then write the requests that are left.

        Args:
            tasks: pairs of caption and kind, each once.
            store: holds the answers so far, and gets the new ones.
            progress: counts the tasks.
        """
        locations, num_failed = self._index_answers()
        if num_failed:
            progress.print(f"{num_failed} lines came back without an answer; they are asked again")
        for old in self.requests.glob("requests-*.jsonl"):
            old.unlink()
        files = _RequestFiles(self.requests, self.max_requests)
        for caption, kind in tasks:
            verdict = self._read_answers(caption, kind, store, locations)
            progress.count_task(bool(verdict.accepted))
            if verdict.next_attempt is not None:
                files.add(
                    self.answer_index.key(caption, kind, verdict.next_attempt),
                    self.request_body(caption, kind, verdict.next_attempt),
                )
        files.close()
        progress.print(f"{files.count} requests in {self.requests}" if files.count else "nothing is left to ask")

    def _read_answers(self, caption: str, kind: str, store: Store, locations: dict[str, Location]) -> Verdict:
        """Move the answers that one task needs from the files to the store."""
        while (verdict := self.answer_index.verdict(store, caption, kind)).next_attempt is not None:
            key = self.answer_index.key(caption, kind, verdict.next_attempt)
            if key not in locations:
                break
            store.add(self._read_answer(caption, kind, verdict.next_attempt, locations.pop(key)))
        return verdict

    def _index_answers(self) -> tuple[dict[str, Location], int]:
        """Return key -> location of its line, and the number of lines with a failure that is worth a retry.

        Such lines, and lines that cannot be read, are left out.
        """
        locations: dict[str, Location] = {}
        num_failed = 0
        for path in self._answer_files():
            for offset, record in _records(path):
                if _is_final(record):
                    locations[record["custom_id"]] = Location(path, offset)
                else:
                    num_failed += 1
        return locations, num_failed

    def _answer_files(self) -> Iterator[str]:
        for pattern in self.answers:
            paths = sorted(glob.glob(pattern))  # noqa: PTH207  (the pattern may be absolute)
            if not paths:
                raise ConfigError(f"negatives.answers: there is no file {pattern}")
            yield from paths

    def _read_answer(self, caption: str, kind: str, attempt: int, location: Location) -> Answer:
        with Path(location.path).open("rb") as lines:
            lines.seek(location.offset)
            response = decode_json(lines.readline())["response"]
        try:
            if response.get("status_code", 200) != 200:
                raise NoCompletion(error_message(response.get("body")))
            return self.answer(caption, kind, attempt, parse_completion(response.get("body")))
        except NoCompletion as error:
            return self.failure(caption, kind, attempt, str(error), is_final=True)


class _RequestFiles:
    """Request files of at most ``max_requests`` lines each."""

    def __init__(self, folder: Path, max_requests: int):
        self.folder = folder
        self.max_requests = max_requests
        self.count = 0
        self._file: Any = None

    def add(self, key: str, body: dict[str, Any]) -> None:
        """Append a request."""
        if self.count % self.max_requests == 0:
            self.close()
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"requests-{self.count // self.max_requests:05d}.jsonl"
            self._file = path.open("w", encoding="utf-8")
        self.count += 1
        line = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Close the current file."""
        if self._file is not None:
            self._file.close()


def _records(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the offset and the content of every line that is a JSON object with a key."""
    offset = 0
    with Path(path).open("rb") as lines:
        for line in lines:
            try:
                record = decode_json(line)
            except ValueError:
                record = None
            if isinstance(record, dict) and isinstance(record.get("custom_id"), str):
                yield offset, record
            offset += len(line)


def _is_final(record: dict[str, Any]) -> bool:
    """Return whether asking again would change nothing."""
    response = record.get("response")
    return not record.get("error") and isinstance(response, dict) and _status(response) in _FINAL_STATUSES


def _status(response: dict[str, Any]) -> int:
    status = response.get("status_code", 200)
    return status if isinstance(status, int) else 0
