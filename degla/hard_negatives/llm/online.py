"""Hard negatives by a language model that answers over HTTP while the program runs."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Annotated

from degla.bounds import above, bounded, number, whole
from degla.errors import ConfigError
from degla.hard_negatives.llm.base import LanguageModelWriter, Structured
from degla.hard_negatives.llm.client import ChatClient, Refused, Unavailable
from degla.hard_negatives.progress import Progress
from degla.hard_negatives.store import Answer, Store
from degla.hard_negatives.writers import Tasks

_MAX_CONCURRENCY = 4096  # more connections than the file descriptors of a process allow


class OnlineWriter(LanguageModelWriter):
    """Writes hard negatives by a language model in context, over HTTP (paper, section 3.1).

    Args:
        kinds: the kinds that are written.
        count: number of negatives of each kind.
        seed: sent with the request; each further attempt sends the next one.
        model: the name by which the server knows the model.
        base_url: address of any server that speaks OpenAI's chat completions.
        api_key_env: name of the environment variable that holds the key.
        prompts: folder of your own ``<kind>.yaml`` files; None uses ours.
        temperature: sampling temperature.
        max_tokens: limit of one answer.
        structured: how the server is told to answer in JSON; ``none`` for servers that support neither way.
        attempts: how often a caption is asked about while its answers are bad.
        concurrency: number of requests at the same time.
        timeout_seconds: limit of one request.
        max_retries: retries of one request after time-outs, resets and HTTP 408, 429 and 5xx.
        max_failures: number of failed requests in a row that ends the run.
        max_server_wait_seconds: longest wait that the server may ask for; a longer one ends the run.
        tagger: word classes for the checks.
    """

    @bounded("negatives")
    def __init__(
        self,
        kinds: Sequence[str],
        count: int,
        seed: int,
        model: str | None = None,
        base_url: str = "http://localhost:8000/v1",
        api_key_env: str = "OPENAI_API_KEY",
        prompts: str | None = None,
        temperature: Annotated[float, number(0)] = 0.7,
        max_tokens: Annotated[int, whole(1)] = 256,
        structured: Structured = "json_schema",
        attempts: Annotated[int, whole(1)] = 2,
        concurrency: Annotated[int, whole(1, _MAX_CONCURRENCY)] = 32,
        timeout_seconds: Annotated[float, above(0)] = 120.0,
        max_retries: Annotated[int, whole(0)] = 8,
        max_failures: Annotated[int, whole(1)] = 32,
        max_server_wait_seconds: Annotated[float, number(0)] = 600.0,
        tagger: str = "hanta",
    ):
        super().__init__(kinds, count, seed, model, prompts, temperature, max_tokens, structured, attempts, tagger)
        self.client = ChatClient(
            base_url,
            api_key_env,
            concurrency,
            timeout_seconds,
            max_retries,
            max_server_wait_seconds=max_server_wait_seconds,
        )
        self.redact = self.client.redact
        self.concurrency = concurrency
        self.max_failures = max_failures
        self._num_failures = 0  # in a row

    def write(self, tasks: Tasks, store: Store, progress: Progress) -> None:
        """Ask the server, ``concurrency`` requests at a time.

        A task is taken from the iterator only when a request can start, so memory does not grow with the input.

        Args:
            tasks: pairs of caption and kind, each once.
            store: holds the answers so far, and gets the new ones.
            progress: counts the tasks.
        """
        self.client.announce = progress.print
        try:
            asyncio.run(self._write(iter(tasks), store, progress))
        except ExceptionGroup as group:  # the first worker that failed stopped the others
            raise group.exceptions[0] from group

    async def _write(self, tasks: Iterator[tuple[str, str]], store: Store, progress: Progress) -> None:
        async def work() -> None:
            for caption, kind in tasks:
                await self._answer_task(caption, kind, store, progress)
                # A resumed run passes many finished tasks. Without this line they would block the open requests.
                await asyncio.sleep(0)

        async with self.client, asyncio.TaskGroup() as group:
            for _ in range(self.concurrency):
                group.create_task(work())

    async def _answer_task(self, caption: str, kind: str, store: Store, progress: Progress) -> None:
        while (verdict := self.answer_index.verdict(store, caption, kind)).next_attempt is not None:
            answer = await self._ask(caption, kind, verdict.next_attempt)
            store.add(answer)
            progress.count_tokens(answer.input_tokens, answer.output_tokens)
            if not answer.is_final:
                break
        progress.count_task(bool(verdict.accepted))

    async def _ask(self, caption: str, kind: str, attempt: int) -> Answer:
        try:
            reply = await self.client.ask(self.request_body(caption, kind, attempt))
        except (Refused, Unavailable) as error:
            self._num_failures += 1
            if self._num_failures >= self.max_failures:
                raise ConfigError(
                    f"negatives.base_url: {self._num_failures} requests in a row failed ({error}); "
                    "the answers so far are kept, and the same command resumes"
                ) from error
            # Where no request was ever answered, the settings may be wrong: then a refusal is not final.
            is_final = isinstance(error, Refused) and self.client.has_answered
            return self.failure(caption, kind, attempt, str(error), is_final)
        self._num_failures = 0
        return self.answer(caption, kind, attempt, reply)
