"""Negatives by a language model, through files."""

import contextlib
import glob
import json
from collections.abc import Sequence
from pathlib import Path

from degla.errors import ConfigError
from degla.hard_negatives.llm.base import Prompted, Structured
from degla.hard_negatives.llm.client import NoCompletion, reply_of
from degla.hard_negatives.progress import Progress
from degla.hard_negatives.store import Answer, Store
from degla.hard_negatives.writers import Tasks

_LASTING = {200, 400, 413, 422}


class BatchWriter(Prompted):
    """By a language model, through files: OpenAI's batch format, for ``vllm run-batch`` or a batch API.

    Writes what is still to be asked to ``requests``; reads the files of ``answers`` first. Answers of bad quality are
    written out again as a second attempt, so that the two steps can be repeated until nothing is left.

    Args:
        kinds: which are written.
        count: negatives of each kind.
        seed: sent along.
        model: as the server knows it.
        requests: folder of the request files.
        answers: files or patterns of what came back.
        max_requests: in one file; batch APIs take 50,000.
        prompts: folder of your own ``<kind>.yaml`` files; None uses ours.
        temperature: of the sampling.
        max_tokens: of one answer.
        structured: how the server is told to answer in JSON.
        attempts: how often a caption is asked about while its answers are bad.
        tagger: for the checks.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        count: int,
        seed: int,
        model: str | None = None,
        requests: str = "requests",
        answers: Sequence[str] = (),
        max_requests: int = 50_000,
        prompts: str | None = None,
        temperature: float = 0.7,
        max_tokens: int = 256,
        structured: Structured = "json_schema",
        attempts: int = 2,
        tagger: str = "hanta",
    ):
        super().__init__(kinds, count, seed, model, prompts, temperature, max_tokens, structured, attempts, tagger)
        self.requests = Path(requests)
        self.answers = tuple(answers)
        self.max_requests = max_requests

    def write(self, tasks: Tasks, store: Store, progress: Progress) -> None:
        """Read answers, then write requests."""
        came, num_failed = self._came_back()
        if num_failed:
            progress.say(f"{num_failed} lines came back without an answer; they are asked again")
        for old in self.requests.glob("requests-*.jsonl"):
            old.unlink()
        file, count = None, 0
        for caption, kind in tasks:
            while (verdict := self.filing.verdict(store, caption, kind)).next_attempt is not None:
                key = self.filing.key(caption, kind, verdict.next_attempt)
                if key not in came:
                    break
                store.add(self._read(caption, kind, verdict.next_attempt, *came.pop(key)))
            progress.done(bool(verdict.accepted))
            if verdict.next_attempt is None:
                continue
            if count % self.max_requests == 0:
                self.requests.mkdir(parents=True, exist_ok=True)
                if file:
                    file.close()
                path = self.requests / f"requests-{count // self.max_requests:05d}.jsonl"
                file = path.open("w", encoding="utf-8")
            count += 1
            body = self.body(caption, kind, verdict.next_attempt)
            line = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if file:
            file.close()
        progress.say(f"{count} requests in {self.requests}" if count else "nothing is left to ask")

    def _came_back(self) -> tuple[dict[str, tuple[str, int]], int]:
        """Key -> file and place of its line, and how many lines tell of a failure that may pass.

        Such a line, or one that cannot be read, is as if it had not come.
        """
        found: dict[str, tuple[str, int]] = {}
        num_failed = 0
        for pattern in self.answers:
            paths = sorted(glob.glob(pattern))  # noqa: PTH207  (the pattern may be absolute)
            if not paths:
                raise ConfigError(f"negatives.answers: there is no file {pattern}")
            for path in paths:
                place = 0
                with Path(path).open("rb") as lines:
                    for line in lines:
                        with contextlib.suppress(ValueError, KeyError, TypeError):
                            came = json.loads(line)
                            if _is_lasting(came):
                                found[came["custom_id"]] = (path, place)
                            else:
                                num_failed += 1
                        place += len(line)
        return found, num_failed

    def _read(self, caption: str, kind: str, attempt: int, path: str, place: int) -> Answer:
        with Path(path).open("rb") as lines:
            lines.seek(place)
            came = json.loads(lines.readline())
        response = came.get("response") or {}
        try:
            if came.get("error") or response.get("status_code", 200) != 200:
                raise NoCompletion(str(came.get("error") or response.get("body"))[:300])
            return self.answer(caption, kind, attempt, reply_of(response.get("body")))
        except NoCompletion as error:
            return Answer(self.filing.key(caption, kind, attempt), caption, kind, [], str(error))


def _is_lasting(came: dict) -> bool:
    """Whether asking again would change nothing: an answer, or a request that the server will not take."""
    response = came.get("response") or {"status_code": None}
    return not came.get("error") and response.get("status_code", 200) in _LASTING
