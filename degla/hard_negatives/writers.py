"""The interface of writers of hard negatives, and the two writers that need no language model."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from degla.data.schema import Negative, Unit
from degla.errors import ConfigError
from degla.hard_negatives import rules
from degla.hard_negatives.answer_index import AnswerIndex
from degla.hard_negatives.captions import CaptionRow
from degla.hard_negatives.checks import rejection_reason
from degla.hard_negatives.companions import PARAPHRASE, UNIT_FOIL, UnitRules, parse_unit
from degla.hard_negatives.dataset import CheckedRow
from degla.hard_negatives.language.tagger import load_tagger
from degla.hard_negatives.language.words import lower_words
from degla.hard_negatives.progress import Progress
from degla.hard_negatives.store import Answer, Store

Tasks = Iterable[tuple[str, str]]  # a caption and a kind; each pair once


class Writer(Protocol):
    """Writes hard negatives and checks them.

    ``pipeline.run`` calls ``write``, then ``check_rows``.
    """

    kinds: Sequence[str]  # the kinds that are written; empty where nothing is
    supports_shards: bool  # whether the jobs of an array can share the writing

    def write(self, tasks: Tasks, store: Store, progress: Progress) -> None:
        """Add an answer to the store for every task that has none.

        Args:
            tasks: pairs of caption and kind, each once.
            store: holds the answers so far, and gets the new ones.
            progress: counts the tasks.
        """

    def check_rows(self, rows: Iterable[CaptionRow], store: Store) -> Iterator[CheckedRow]:
        """Yield every row with the negatives that pass the checks.

        Args:
            rows: rows of the input.
            store: holds the answers.
        """

    def describe(self) -> dict[str, Any]:
        """Return how the negatives are made, for the data card."""


class AnswerWriter:
    """Base class of the writers that keep their answers in the store.

    Args:
        kinds: the kinds that are written.
        answer_index: the keys of the answers.
    """

    supports_shards = True

    def __init__(self, kinds: Sequence[str], answer_index: AnswerIndex):
        self.kinds = tuple(kinds)
        self.answer_index = answer_index

    def check_rows(self, rows: Iterable[CaptionRow], store: Store) -> Iterator[CheckedRow]:
        """Yield every row with those answers for its caption that pass the checks.

        Args:
            rows: rows of the input.
            store: holds the answers.
        """
        failures = {(answer.caption, answer.kind): answer.failure for answer in store.failures()}
        for row in rows:
            if row.problem and not row.caption:
                yield CheckedRow(row.image, "", [], [("row", row.id, row.problem)])
                continue
            accepted: list[Negative] = []
            units: list[Unit] = []
            paraphrases: list[str] = []
            rejected: list[tuple[str, str, str]] = []
            for kind in self.kinds:
                verdict = self.answer_index.verdict(store, row.caption, kind)
                rejected += [(kind, text, reason) for text, reason in verdict.rejected]
                for text in verdict.accepted:
                    if kind == PARAPHRASE:
                        paraphrases.append(text)
                    elif kind == UNIT_FOIL:
                        units += filter(None, [parse_unit(text)])
                    elif lower_words(text) in [lower_words(other.text) for other in accepted]:
                        rejected.append((kind, text, "duplicate"))
                    else:
                        accepted.append(Negative(text, kind))
                if not verdict.accepted and not verdict.rejected:
                    rejected.append((kind, "", failures.get((row.caption, kind), verdict.reason)))
            yield CheckedRow(row.image, row.caption, accepted, rejected, units, paraphrases)

    def describe(self) -> dict[str, Any]:
        """Return model, prompts and seed."""
        index = self.answer_index
        return {"model": index.model, "prompts": dict(index.prompts), "seed": index.seed}


class RuleWriter(AnswerWriter):
    """Writes hard negatives by rule, offline (``degla.hard_negatives.rules``).

    Args:
        kinds: the kinds that are written.
        count: number of negatives of each kind.
        seed: seed of the choices.
        tagger: ``hanta``, ``lexicon``, or the name of an installed spaCy model.

    Raises:
        ConfigError: ``paraphrase`` is among the kinds, for which there is no rule.
    """

    def __init__(self, kinds: Sequence[str], count: int, seed: int, tagger: str = "hanta"):
        if PARAPHRASE in kinds:
            raise ConfigError("kinds=[paraphrase] needs a language model: set negatives=llm or negatives=batch")
        self.rules = rules.Rules(tagger, seed)
        self.unit_rules = UnitRules(self.rules, load_tagger(tagger))
        versions = dict.fromkeys(kinds, f"rules-{rules.VERSION}")
        super().__init__(kinds, AnswerIndex(self.rules.model, versions, load_tagger(tagger), seed, count))

    def write(self, tasks: Tasks, store: Store, progress: Progress) -> None:
        """Answer the tasks one after the other.

        Args:
            tasks: pairs of caption and kind, each once.
            store: holds the answers so far, and gets the new ones.
            progress: counts the tasks.
        """
        for caption, kind in tasks:
            key = self.answer_index.key(caption, kind)
            answer = store.get(key)
            if answer is None:
                answer = self._answer(key, caption, kind)
                store.add(answer)
            progress.count_task(bool(answer.texts))

    def _answer(self, key: str, caption: str, kind: str) -> Answer:
        try:
            count = self.answer_index.count
            is_unit = kind == UNIT_FOIL
            texts = self.unit_rules.write(caption, count) if is_unit else self.rules.write(caption, kind, count)
            return Answer(key, caption, kind, texts)
        except rules.NoNegative as error:
            return Answer(key, caption, kind, [], str(error))


class GivenNegatives:
    """Checks the negatives that the input has already.

    Writes none.

    Args:
        tagger: word classes for the checks: ``hanta``, ``lexicon``, or the name of an installed spaCy model.
    """

    kinds: Sequence[str] = ()
    supports_shards = False

    def __init__(self, tagger: str = "hanta"):
        self.tagger = load_tagger(tagger)

    def write(self, tasks: Tasks, store: Store, progress: Progress) -> None:
        """Do nothing.

        Args:
            tasks: none, because ``kinds`` is empty.
            store: not used.
            progress: not used.
        """

    def check_rows(self, rows: Iterable[CaptionRow], store: Store) -> Iterator[CheckedRow]:
        """Yield every row with those of its negatives that pass the checks.

        Args:
            rows: rows of the input, with their negatives.
            store: not used.
        """
        for row in rows:
            if row.problem:
                yield CheckedRow(row.image, row.caption, [], [("row", row.id, row.problem)])
                continue
            accepted: list[Negative] = []
            rejected: list[tuple[str, str, str]] = []
            for negative in row.negatives:
                earlier = [other.text for other in accepted]
                if reason := rejection_reason(row.caption, negative.text, negative.type, self.tagger, earlier):
                    rejected.append((negative.type, negative.text, reason))
                else:
                    accepted.append(negative)
            yield CheckedRow(row.image, row.caption, accepted, rejected)

    def describe(self) -> dict[str, Any]:
        """Return an empty mapping, because the job records its own settings."""
        return {}
