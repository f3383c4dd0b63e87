"""The common part of the online writer and the batch writer: prompts, request bodies, answers."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from degla.bounds import bounded, number, whole
from degla.errors import ConfigError
from degla.hard_negatives.answer_index import AnswerIndex
from degla.hard_negatives.checks import max_length
from degla.hard_negatives.language.tagger import load_tagger
from degla.hard_negatives.llm.completion import Reply
from degla.hard_negatives.llm.parse import InvalidAnswer, parse_answer
from degla.hard_negatives.llm.prompts import ANSWER_SCHEMA, load_prompts
from degla.hard_negatives.llm.redact import Redactor
from degla.hard_negatives.progress import Progress
from degla.hard_negatives.store import Answer, Store
from degla.hard_negatives.writers import AnswerWriter, Tasks

Structured = Literal["json_schema", "json_object", "none"]

_MAX_STORED_FAILURE = 500  # characters of a bad answer that the store keeps


class LanguageModelWriter(AnswerWriter):
    """Base class of the writers that ask a language model.

    Args:
        kinds: the kinds that are written.
        count: number of negatives of each kind.
        seed: sent with the request; each further attempt sends the next one.
        model: the name by which the server knows the model.
        prompts: folder of your own ``<kind>.yaml`` files; None uses ours.
        temperature: sampling temperature.
        max_tokens: limit of one answer.
        structured: how the server is told to answer in JSON; ``none`` for servers that support neither way.
        attempts: how often a caption is asked about while its answers are bad.
        tagger: word classes for the checks.
    """

    @bounded("negatives")
    def __init__(
        self,
        kinds: Sequence[str],
        count: int,
        seed: int,
        model: str | None,
        prompts: str | None = None,
        temperature: Annotated[float, number(0)] = 0.7,
        max_tokens: Annotated[int, whole(1)] = 256,
        structured: Structured = "json_schema",
        attempts: Annotated[int, whole(1)] = 2,
        tagger: str = "hanta",
    ):
        if not model:
            raise ConfigError("negatives.model is not set: set it to the name by which the server knows its model")
        self.redact = Redactor()
        self.prompts = load_prompts(kinds, prompts)
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.structured = structured
        versions = {kind: f"{prompt.version}-t{temperature:g}" for kind, prompt in self.prompts.items()}
        index = AnswerIndex(model, versions, load_tagger(tagger), seed, count, attempts, max_tokens)
        super().__init__(kinds, index)

    def write(self, tasks: Tasks, store: Store, progress: Progress) -> None:
        """Add an answer to the store for every task that has none.

        Args:
            tasks: pairs of caption and kind, each once.
            store: holds the answers so far, and gets the new ones.
            progress: counts the tasks.
        """
        raise NotImplementedError

    def forget_examples(self) -> None:
        """Drop the examples from all further requests, which then ask for drafts by the rules alone."""
        self.prompts = {kind: prompt._replace(examples=[]) for kind, prompt in self.prompts.items()}
        self.answer_index.prompts = {kind: f"draft-{version}" for kind, version in self.answer_index.prompts.items()}

    def request_body(self, caption: str, kind: str, attempt: int) -> dict[str, Any]:
        """Return the body of a chat completion request.

        Args:
            caption: the original caption.
            kind: a key of ``KINDS``.
            attempt: 0 for the first request.
        """
        body: dict[str, Any] = {
            "model": self.answer_index.model,
            "messages": self.prompts[kind].messages(caption, self.answer_index.count),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": self.answer_index.seed + attempt,
        }
        if self.structured == "json_schema":
            schema = {"name": "negatives", "schema": ANSWER_SCHEMA, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self.structured == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body

    def answer(self, caption: str, kind: str, attempt: int, reply: Reply) -> Answer:
        """Return the record of a reply for the store.

        A bad reply is kept with its text and the reason.

        Args:
            caption: the original caption.
            kind: a key of ``KINDS``.
            attempt: the attempt that the reply answers.
            reply: the completion.
        """
        tokens = (reply.input_tokens, reply.output_tokens)
        try:
            texts = parse_answer(reply.text, reply.finish_reason, reply.refusal)
        except InvalidAnswer as error:
            index = self.answer_index
            key = (index.truncated_key if error.is_truncated else index.key)(caption, kind, attempt)
            raw = self.redact(reply.refusal or reply.text or "")[:_MAX_STORED_FAILURE]
            return Answer(key, caption, kind, [raw] if raw else [], str(error), True, *tokens)
        # One character more than the checks allow is enough for them to reject a text because of its length.
        texts = [self.redact(text)[: max_length(caption) + 1] for text in texts]
        return Answer(self.answer_index.key(caption, kind, attempt), caption, kind, texts, "", True, *tokens)

    def failure(self, caption: str, kind: str, attempt: int, reason: str, is_final: bool) -> Answer:
        """Return the record of a request without a completion.

        Args:
            caption: the original caption.
            kind: a key of ``KINDS``.
            attempt: the attempt that failed.
            reason: why there is no completion.
            is_final: whether asking again would change nothing.
        """
        key = self.answer_index.key(caption, kind, attempt)
        return Answer(key, caption, kind, [], self.redact(reason)[:_MAX_STORED_FAILURE], is_final)
