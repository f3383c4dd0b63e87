"""Find the answers for a caption in the store, check them, and return the next attempt to request."""

from collections.abc import Mapping
from typing import NamedTuple

from degla.hard_negatives.companions import text_problem
from degla.hard_negatives.language.tagger import Tagger
from degla.hard_negatives.store import Answer, Store, answer_key


class Verdict(NamedTuple):
    """The outcome for one caption and kind."""

    accepted: list[str]
    rejected: list[tuple[str, str]]  # text and reason
    reason: str  # why nothing is accepted; "" where something is
    next_attempt: int | None  # the attempt to ask for next; None where there is nothing more to ask


class AnswerIndex:
    """The keys under which a writer stores its answers, and the verdicts on them.

    Args:
        model: name of the model or rules that answer.
        prompts: kind -> version of its prompt or rule.
        tagger: word classes for the checks.
        seed: seed of the writer.
        count: number of negatives of each kind.
        attempts: how often a caption is asked about while its answers are bad.
        max_tokens: limit of an answer; 0 where there is none.
    """

    def __init__(
        self,
        model: str,
        prompts: Mapping[str, str],
        tagger: Tagger,
        seed: int,
        count: int,
        attempts: int = 1,
        max_tokens: int = 0,
    ):
        self.model = model
        self.prompts = prompts
        self.tagger = tagger
        self.seed = seed
        self.count = count
        self.attempts = attempts
        self.max_tokens = max_tokens

    def key(self, caption: str, kind: str, attempt: int = 0) -> str:
        """Return the key of an answer in the store.

        Args:
            caption: the original caption.
            kind: a key of ``KINDS``.
            attempt: 0 for the first request.
        """
        return answer_key(caption, kind, self.prompts[kind], self.model, self.seed, self.count, attempt)

    def truncated_key(self, caption: str, kind: str, attempt: int = 0) -> str:
        """Return the key of an answer that reached ``max_tokens``.

        The limit is part of the key, so a run with another limit asks again.

        Args:
            caption: the original caption.
            kind: a key of ``KINDS``.
            attempt: 0 for the first request.
        """
        prompt = f"{self.prompts[kind]}-cut at {self.max_tokens}"  # the stores of earlier runs hold these words
        return answer_key(caption, kind, prompt, self.model, self.seed, self.count, attempt)

    def verdict(self, store: Store, caption: str, kind: str) -> Verdict:
        """Judge the answers that the store holds for a caption and kind.

        Args:
            store: holds the answers.
            caption: the original caption.
            kind: a key of ``KINDS``.
        """
        rejected: list[tuple[str, str]] = []
        reason = "not asked yet"
        for attempt in range(self.attempts):
            answer = self._answer(store, caption, kind, attempt)
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
                if reason := text_problem(caption, text, kind, self.tagger, accepted):
                    rejected.append((text, reason))
                else:
                    accepted.append(text)
            if accepted:
                return Verdict(accepted[: self.count], rejected, "", None)
            reason = rejected[-1][1]
        return Verdict([], rejected, reason, None)

    def _answer(self, store: Store, caption: str, kind: str, attempt: int) -> Answer | None:
        answer = store.get(self.key(caption, kind, attempt))
        return answer or store.get(self.truncated_key(caption, kind, attempt))
