"""Which answers there are for a caption, which of them are good, and what is to be asked next."""

from collections.abc import Mapping
from typing import NamedTuple

from degla.hard_negatives.checks import rejection
from degla.hard_negatives.language.tagger import Tag
from degla.hard_negatives.store import Store, answer_key


class Verdict(NamedTuple):
    """What is known for one caption and kind."""

    accepted: list[str]
    rejected: list[tuple[str, str]]  # text, reason
    reason: str  # why nothing is accepted; "" where something is
    next_attempt: int | None  # to be asked; None where there is no more to ask


class Filing:
    """Keys and verdicts of one writer.

    Args:
        model: that answers.
        prompts: kind -> version of its prompt or rule.
        tag: for the checks.
        seed: of the writer.
        count: negatives wanted of each kind.
        attempts: how often a bad answer is asked for again, the first time included.
        max_tokens: of an answer; 0 where there is no such limit.
    """

    def __init__(
        self,
        model: str,
        prompts: Mapping[str, str],
        tag: Tag,
        seed: int,
        count: int,
        attempts: int = 1,
        max_tokens: int = 0,
    ):
        self.model = model
        self.prompts = prompts
        self.tag = tag
        self.seed = seed
        self.count = count
        self.attempts = attempts
        self.max_tokens = max_tokens

    def key(self, caption: str, kind: str, attempt: int = 0) -> str:
        """What the answer is filed under."""
        return answer_key(caption, kind, self.prompts[kind], self.model, self.seed, self.count, attempt)

    def key_of_cut(self, caption: str, kind: str, attempt: int = 0) -> str:
        """What an answer that ran into the limit is filed under: with more room it is asked for again."""
        prompt = f"{self.prompts[kind]}-cut at {self.max_tokens}"
        return answer_key(caption, kind, prompt, self.model, self.seed, self.count, attempt)

    def verdict(self, store: Store, caption: str, kind: str) -> Verdict:
        """Judge what has been answered so far."""
        rejected: list[tuple[str, str]] = []
        reason = "not asked yet"
        for attempt in range(self.attempts):
            answer = store.get(self.key(caption, kind, attempt)) or store.get(self.key_of_cut(caption, kind, attempt))
            if answer is None:
                return Verdict([], rejected, reason, attempt)
            if answer.failure:
                rejected += [(text, answer.failure) for text in answer.texts or [""]]
                reason = answer.failure
                continue
            if not answer.texts:
                return Verdict([], rejected, "the model finds nothing to change", None)
            accepted: list[str] = []
            for text in answer.texts:
                if reason := rejection(caption, text, kind, self.tag, accepted):
                    rejected.append((text, reason))
                else:
                    accepted.append(text)
            if accepted:
                return Verdict(accepted[: self.count], rejected, "", None)
            reason = rejected[-1][1]
        return Verdict([], rejected, reason, None)
