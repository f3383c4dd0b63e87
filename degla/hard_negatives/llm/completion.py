"""The schema of a chat completion, by which a server's answers are read or refused."""

import json
import math
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

_MAX_TOKENS = 10**9  # a larger count is a mistake of the server


class NoCompletion(Exception):
    """The response contains no completion.

    The message is the reason.
    """


class Reply(NamedTuple):
    """One completion."""

    text: str | None
    finish_reason: str | None
    refusal: str | None
    input_tokens: int
    output_tokens: int


def decode_json(content: bytes | str) -> Any:
    """Decode JSON of an unknown source.

    Raises:
        ValueError: not JSON, or nested too deeply.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error


def parse_completion(answer: Any) -> Reply:
    """Read a decoded chat completion.

    Raises:
        NoCompletion: it does not have the form of one.
    """
    try:
        completion = _Completion.model_validate(answer)
    except (ValidationError, RecursionError) as error:
        raise NoCompletion("the response is not a chat completion") from error
    choice, usage = completion.choices[0], completion.usage
    return Reply(
        choice.message.content,
        choice.finish_reason,
        choice.message.refusal,
        usage.prompt_tokens if usage else 0,
        usage.completion_tokens if usage else 0,
    )


def error_message(answer: Any) -> str:
    """Return the message of an error in OpenAI's format, or the whole answer as text."""
    error = answer.get("error") if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    if isinstance(message, str):
        return message
    try:
        return json.dumps(answer, ensure_ascii=False)
    except RecursionError:
        return "an answer that is nested too deeply"


def without_surrogates(text: str) -> str:
    r"""Replace lone surrogates, which JSON can contain (``"\ud800"``) and no file can."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _join_parts(content: Any) -> Any:
    """Join content that comes as a list of parts. Parts without text, such as images, are left out."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        content = "".join(part for part in parts if isinstance(part, str)) if parts else None
    return without_surrogates(content) if isinstance(content, str) else content


def _text_or_none(value: Any) -> str | None:
    return without_surrogates(value) if isinstance(value, str) else None


def _token_count(value: Any) -> int:
    """Return a number of tokens, or 0 where the server gives none that can be used."""
    try:
        number = float(value) if isinstance(value, int | float | str) and len(str(value)) < 20 else 0.0
    except ValueError:
        return 0
    return int(number) if math.isfinite(number) and 0 <= number <= _MAX_TOKENS else 0


_Text = Annotated[str | None, BeforeValidator(_join_parts)]
_OptionalText = Annotated[str | None, BeforeValidator(_text_or_none)]
_TokenCount = Annotated[int, BeforeValidator(_token_count)]


class _Message(BaseModel):
    content: _Text = None
    refusal: _OptionalText = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: _OptionalText = None


class _Usage(BaseModel):
    prompt_tokens: _TokenCount = 0
    completion_tokens: _TokenCount = 0


def _usage_or_none(value: Any) -> Any:
    return value if isinstance(value, dict) else None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: Annotated[_Usage | None, BeforeValidator(_usage_or_none)] = None
