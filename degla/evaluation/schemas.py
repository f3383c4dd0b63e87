"""Data from outside, checked by pydantic: the first thing that is wrong becomes one sentence."""

import json
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

T = TypeVar("T")


class ForeignModel(BaseModel):
    """Base of the objects in other people's files: strict types, unknown fields ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, arbitrary_types_allowed=True)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


Text = Annotated[str, AfterValidator(_not_blank)]  # a caption or a name
Captions = Annotated[list[Text], Field(min_length=2)]  # of one item
LooseInt = Annotated[int, Field(strict=False)]  # some files hold their numbers as text or as 3.0
ItemId = int | str | None


def validated(adapter: TypeAdapter[T], value: Any) -> T:
    """Return the value as the type that the adapter describes.

    Args:
        adapter: of the expected type.
        value: plain data, as JSON or a table holds them.

    Raises:
        ValueError: the value has the wrong form; the message says where, and what is there instead.
    """
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise ValueError(first_error(error)) from error


def is_json_error(error: Exception) -> bool:
    """Return whether the text could not be read as JSON at all: broken, not UTF-8, or nested too deeply."""
    return isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError)


def first_error(error: ValidationError) -> str:
    """Return pydantic's first error as one line: the place, the problem and the value."""
    finding = error.errors(include_url=False)[0]
    # A union reports each of its members; the names of those are ours and say nothing to the reader.
    where = ".".join(str(part) for part in finding["loc"] if not _is_type_name(part))
    message = finding["msg"].removeprefix("Value error, ")
    value = "" if finding["type"] == "missing" else f", not {_short(finding['input'])}"
    message = "is missing" if finding["type"] == "missing" else message.replace("Input should be", "must be")
    return f"{where or 'it'} {message[:1].lower()}{message[1:]}{value}"


def _is_type_name(part: int | str) -> bool:
    return isinstance(part, str) and part.startswith(("list[", "dict[", "tuple[", "function-", "literal["))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
