"""What a model's answer says."""

import json


class Unparsable(ValueError):
    """An answer that holds no list of negatives; the message is the reason."""

    def __init__(self, reason: str, is_cut: bool = False):
        super().__init__(reason)
        self.is_cut = is_cut  # it ran into the limit of tokens


def parse_answer(text: str | None, finish_reason: str | None = None, refusal: str | None = None) -> list[str]:
    """The negatives in ``{"negatives": [...]}``, fences, chatter and thoughts around it forgiven.

    Raises:
        Unparsable: refused, cut short, or not of this form.
    """
    if refusal or finish_reason == "content_filter":
        raise Unparsable("refused")
    if text is not None and not isinstance(text, str):
        raise Unparsable("an answer that is no text")
    text = (text or "").rpartition("</think>")[2]  # what a reasoning model says to itself may hold drafts
    if not text.strip():
        if finish_reason == "length":  # spent on thoughts
            raise Unparsable("cut short: raise negatives.max_tokens", is_cut=True)
        raise Unparsable("empty answer")
    start, end = text.find("{"), text.rfind("}")
    try:
        content = json.loads(text[start : end + 1] if -1 < start < end else text)
        negatives = content["negatives"]
    except (ValueError, KeyError, TypeError) as error:
        if finish_reason == "length":
            raise Unparsable("cut short: raise negatives.max_tokens", is_cut=True) from error
        raise Unparsable("no JSON of the form {negatives: [...]}") from error
    if not isinstance(negatives, list) or not all(isinstance(item, str) for item in negatives):
        raise Unparsable("negatives are no list of strings")
    return [item.strip() for item in negatives]
