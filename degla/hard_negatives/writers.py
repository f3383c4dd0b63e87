"""Who writes the negatives: here what all writers are, and the one that goes by rules."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from degla.hard_negatives import rules
from degla.hard_negatives.answer_index import Filing
from degla.hard_negatives.language.tagger import tagger as load_tagger
from degla.hard_negatives.progress import Progress
from degla.hard_negatives.store import Answer, Store

Tasks = Iterable[tuple[str, str]]  # caption and kind, each once


class Writer(Protocol):
    """Fills a store with answers."""

    filing: Filing

    def write(self, tasks: Tasks, store: Store, progress: Progress) -> None:
        """Answer what the store does not hold."""


class RuleWriter:
    """By rule, offline (``degla.hard_negatives.rules``).

    Args:
        kinds: which are written.
        count: negatives of each kind.
        seed: of the choices.
        tagger: ``hanta``, ``lexicon``, or an installed spaCy model.
    """

    def __init__(self, kinds: Sequence[str], count: int, seed: int, tagger: str = "hanta"):
        self.rules = rules.Rules(tagger, seed)
        self.filing = Filing(
            self.rules.model, dict.fromkeys(kinds, f"rules-{rules.VERSION}"), load_tagger(tagger), seed, count
        )

    def write(self, tasks: Tasks, store: Store, progress: Progress) -> None:
        """One after the other."""
        for caption, kind in tasks:
            key = self.filing.key(caption, kind)
            if key not in store:
                try:
                    answer = Answer(key, caption, kind, self.rules.write(caption, kind, self.filing.count))
                except rules.Unable as error:
                    answer = Answer(key, caption, kind, [], str(error))
                store.add(answer)
            progress.done(bool(store.get(key).texts))
