"""What asking a language model live and asking it by files share: prompts, request bodies, answers."""

from collections.abc import Sequence
from typing import Any, Literal

from degla.errors import ConfigError
from degla.hard_negatives.answer_index import Filing
from degla.hard_negatives.language.tagger import tagger as load_tagger
from degla.hard_negatives.llm.client import Reply
from degla.hard_negatives.llm.parse import Unparsable, parse_answer
from degla.hard_negatives.llm.prompts import ANSWER_SCHEMA, load_prompts
from degla.hard_negatives.store import Answer

Structured = Literal["json_schema", "json_object", "none"]


class Prompted:
    """See ``ModelWriter`` for the arguments."""

    def __init__(
        self,
        kinds: Sequence[str],
        count: int,
        seed: int,
        model: str | None,
        prompts: str | None = None,
        temperature: float = 0.7,
        max_tokens: int = 256,
        structured: Structured = "json_schema",
        attempts: int = 2,
        tagger: str = "hanta",
    ):
        if model is None:
            raise ConfigError("negatives.model is not set: the name by which the server knows its model")
        self.prompts = load_prompts(kinds, prompts)
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.structured = structured
        versions = {kind: f"{prompt.version}-t{temperature:g}" for kind, prompt in self.prompts.items()}
        self.filing = Filing(model, versions, load_tagger(tagger), seed, count, attempts, max_tokens)

    def forget_examples(self) -> None:
        """Ask by the rules alone, as one does to get examples."""
        self.prompts = {kind: prompt._replace(examples=[]) for kind, prompt in self.prompts.items()}
        self.filing.prompts = {kind: f"draft-{version}" for kind, version in self.filing.prompts.items()}

    def body(self, caption: str, kind: str, attempt: int) -> dict[str, Any]:
        """A chat completion request."""
        body: dict[str, Any] = {
            "model": self.filing.model,
            "messages": self.prompts[kind].messages(caption, self.filing.count),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": self.filing.seed + attempt,
        }
        if self.structured == "json_schema":
            schema = {"name": "negatives", "schema": ANSWER_SCHEMA, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self.structured == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body

    def answer(self, caption: str, kind: str, attempt: int, reply: Reply) -> Answer:
        """What a reply comes to; a bad one is filed with its text and the reason."""
        key, tokens = self.filing.key(caption, kind, attempt), (reply.input_tokens, reply.output_tokens)
        try:
            texts = parse_answer(reply.text, reply.finish_reason, reply.refusal)
        except Unparsable as error:
            if error.is_cut:
                key = self.filing.key_of_cut(caption, kind, attempt)
            raw = (reply.refusal or reply.text or "")[:500]
            return Answer(key, caption, kind, [raw] if raw else [], str(error), True, *tokens)
        return Answer(key, caption, kind, texts, "", True, *tokens)
