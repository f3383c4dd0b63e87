"""From captions to a checked data set: write what is missing, judge everything, export."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from degla.data.schema import Negative
from degla.hard_negatives.captions import Captioned, in_shard
from degla.hard_negatives.checks import rejection
from degla.hard_negatives.dataset import Judged
from degla.hard_negatives.language.tagger import tagger as load_tagger
from degla.hard_negatives.language.words import words
from degla.hard_negatives.progress import Progress
from degla.hard_negatives.store import Store
from degla.hard_negatives.writers import Writer


def tasks(rows: Iterator[Captioned], kinds: Sequence[str], shard: tuple[int, int]) -> Iterator[tuple[str, str]]:
    """Every distinct caption of this shard with every kind."""
    for caption in distinct(row for row in rows if in_shard(row.caption, shard)):
        for kind in kinds:
            yield caption, kind


def distinct(rows: Iterable[Captioned]) -> Iterator[str]:
    """Every caption once, in order."""
    seen: set[int] = set()  # hashes: eight bytes for a caption of a hundred
    for row in rows:
        if row.caption and hash(row.caption) not in seen:
            seen.add(hash(row.caption))
            yield row.caption


def fill(
    writer: Writer,
    rows: Iterator[Captioned],
    kinds: Sequence[str],
    store: Store,
    shard: tuple[int, int],
    progress: Progress,
) -> None:
    """Let the writer answer what the store does not hold; whatever happens, what was answered is on disk."""
    try:
        writer.write(tasks(rows, kinds, shard), store, progress)
    finally:
        store.close()
        progress.close()


def judged(writer: Writer, rows: Iterator[Captioned], kinds: Sequence[str], store: Store) -> Iterator[Judged]:
    """Every row of the input with what was written for its caption."""
    unanswered = {(answer.caption, answer.kind): answer.failure for answer in store.failures()}
    for row in rows:
        if row.problem and not row.caption:
            yield Judged(row.image, "", [], [("row", row.id, row.problem)])
            continue
        accepted: list[Negative] = []
        rejected: list[tuple[str, str, str]] = []
        for kind in kinds:
            verdict = writer.filing.verdict(store, row.caption, kind)
            rejected += [(kind, text, reason) for text, reason in verdict.rejected]
            for text in verdict.accepted:
                if words(text) in [words(other.text) for other in accepted]:
                    rejected.append((kind, text, "duplicate"))
                else:
                    accepted.append(Negative(text, kind))
            if not verdict.accepted and not verdict.rejected:
                rejected.append((kind, "", unanswered.get((row.caption, kind), verdict.reason)))
        yield Judged(row.image, row.caption, accepted, rejected)


class GivenNegatives:
    """The negatives that the input has already, through the same checks.

    Args:
        tagger: see ``degla.hard_negatives.language.tagger``.
    """

    def __init__(self, tagger: str = "hanta"):
        self.tag = load_tagger(tagger)

    def judged(self, rows: Iterator[Captioned]) -> Iterator[Judged]:
        """Every row with what passes."""
        for row in rows:
            if row.problem:
                yield Judged(row.image, row.caption, [], [("row", row.id, row.problem)])
                continue
            accepted: list[Negative] = []
            rejected: list[tuple[str, str, str]] = []
            for negative in row.negatives:
                earlier = [other.text for other in accepted]
                if reason := rejection(row.caption, negative.text, negative.type, self.tag, earlier):
                    rejected.append((negative.type, negative.text, reason))
                else:
                    accepted.append(negative)
            yield Judged(row.image, row.caption, accepted, rejected)


def store_folder(output: Path) -> Path:
    """Where the answers of an output folder are."""
    return output / "answers"
