"""Negatives by a language model that is asked live."""

import asyncio
from collections.abc import Iterator, Sequence

from degla.errors import ConfigError
from degla.hard_negatives.llm.base import Prompted, Structured
from degla.hard_negatives.llm.client import ChatClient, Refused, Unavailable
from degla.hard_negatives.progress import Progress
from degla.hard_negatives.store import Answer, Store
from degla.hard_negatives.writers import Tasks


class ModelWriter(Prompted):
    """By a language model in context, asked live (paper, section 3.1).

    Args:
        kinds: which are written.
        count: negatives of each kind.
        seed: sent along; a second attempt sends the next one.
        model: as the server knows it.
        base_url: of any server that speaks OpenAI's chat completions.
        api_key_env: environment variable that holds the key.
        prompts: folder of your own ``<kind>.yaml`` files; None uses ours.
        temperature: of the sampling.
        max_tokens: of one answer.
        structured: how the server is told to answer in JSON; ``none`` for servers that know neither way.
        attempts: how often a caption is asked about while its answers are bad.
        concurrency: requests in flight.
        timeout_seconds: of one request.
        max_retries: of one request, on time-outs, resets and HTTP 408, 429 and 5xx.
        max_failures: so many requests in a row that no retry saved end the run.
        tagger: for the checks.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        count: int,
        seed: int,
        model: str | None = None,
        base_url: str = "http://localhost:8000/v1",
        api_key_env: str = "OPENAI_API_KEY",
        prompts: str | None = None,
        temperature: float = 0.7,
        max_tokens: int = 256,
        structured: Structured = "json_schema",
        attempts: int = 2,
        concurrency: int = 32,
        timeout_seconds: float = 120.0,
        max_retries: int = 8,
        max_failures: int = 32,
        tagger: str = "hanta",
    ):
        super().__init__(kinds, count, seed, model, prompts, temperature, max_tokens, structured, attempts, tagger)
        self.client = ChatClient(base_url, api_key_env, concurrency, timeout_seconds, max_retries)
        self.concurrency = concurrency
        self.max_failures = max_failures
        self._failures = 0

    def write(self, tasks: Tasks, store: Store, progress: Progress) -> None:
        """Ask, ``concurrency`` at a time; the tasks are drawn as they are needed, so memory stays flat."""
        try:
            asyncio.run(self._write(iter(tasks), store, progress))
        except ExceptionGroup as group:  # of the workers; the first one stopped the others
            raise group.exceptions[0] from group

    async def _write(self, tasks: Iterator[tuple[str, str]], store: Store, progress: Progress) -> None:
        async def work():
            for caption, kind in tasks:
                await self._one(caption, kind, store, progress)
                await asyncio.sleep(0)  # what is answered already must not keep the requests under way waiting

        async with self.client, asyncio.TaskGroup() as group:
            for _ in range(self.concurrency):
                group.create_task(work())

    async def _one(self, caption: str, kind: str, store: Store, progress: Progress) -> None:
        while (verdict := self.filing.verdict(store, caption, kind)).next_attempt is not None:
            answer = await self._asked(caption, kind, verdict.next_attempt)
            store.add(answer)
            progress.spent(answer.input_tokens, answer.output_tokens)
            if not answer.is_final:
                break
        progress.done(bool(verdict.accepted))

    async def _asked(self, caption: str, kind: str, attempt: int) -> Answer:
        try:
            reply = await self.client.ask(self.body(caption, kind, attempt))
        except (Refused, Unavailable) as error:
            self._failures += 1
            if self._failures >= self.max_failures:
                raise ConfigError(
                    f"negatives.base_url: {self._failures} requests in a row failed ({error}); "
                    "what was answered is kept, the same command goes on"
                ) from error
            # A refusal is this caption's own only where others are answered: else the settings are to blame.
            final = isinstance(error, Refused) and self.client.has_answered
            return Answer(self.filing.key(caption, kind, attempt), caption, kind, [], str(error), is_final=final)
        self._failures = 0
        return self.answer(caption, kind, attempt, reply)
