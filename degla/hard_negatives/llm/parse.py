"""Read the negatives in the text of a model's answer."""

from degla.hard_negatives.kinds import MAX_PER_KIND
from degla.hard_negatives.llm.completion import decode_json, without_surrogates


class InvalidAnswer(ValueError):
    """An answer without a list of negatives.

    The message is the reason.

    Args:
        reason: why the answer cannot be used.
        is_truncated: whether the answer reached the limit of tokens.
    """

    def __init__(self, reason: str, is_truncated: bool = False):
        super().__init__(reason)
        self.is_truncated = is_truncated


def parse_answer(text: str | None, finish_reason: str | None = None, refusal: str | None = None) -> list[str]:
    """Return the negatives of an answer ``{"negatives": [...]}``.

    Text around the JSON object is ignored.

    Args:
        text: content of the answer.
        finish_reason: why the model stopped, as the server says it.
        refusal: the model's words where it refused.

    Raises:
        InvalidAnswer: refused, truncated, or of another form.
    """
    if refusal or finish_reason == "content_filter":
        raise InvalidAnswer("refused")
    text = (text or "").rpartition("</think>")[2]  # the thoughts of a reasoning model can hold drafts
    if not text.strip():
        if finish_reason == "length":  # all tokens went into thoughts
            raise InvalidAnswer("truncated: raise negatives.max_tokens", is_truncated=True)
        raise InvalidAnswer("empty answer")
    start, end = text.find("{"), text.rfind("}")
    try:
        content = decode_json(text[start : end + 1] if -1 < start < end else text)
        negatives = content["negatives"]
    except (ValueError, KeyError, TypeError) as error:
        if finish_reason == "length":
            raise InvalidAnswer("truncated: raise negatives.max_tokens", is_truncated=True) from error
        raise InvalidAnswer("no JSON of the form {negatives: [...]}") from error
    if not isinstance(negatives, list) or not all(isinstance(item, str) for item in negatives):
        raise InvalidAnswer("negatives is not a list of strings")
    return [without_surrogates(item).strip() for item in negatives[:MAX_PER_KIND]]
