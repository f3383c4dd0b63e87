"""Turn captions into a checked dataset: write the missing negatives, check all of them, export.

Read from top to bottom: ``run`` calls the functions below it in order. What they pass on is in ``captions`` (rows of
the input), ``store`` (answers), ``writers`` (rules and language models) and ``dataset`` (rows of the result).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from degla.hard_negatives.captions import CaptionRow, image_type, in_shard, read_captions
from degla.hard_negatives.dataset import Summary, write_dataset
from degla.hard_negatives.progress import Progress, dollars
from degla.hard_negatives.store import Store
from degla.hard_negatives.writers import Writer

WHOLE = (0, 1)  # the shard that is the whole input


@dataclass(frozen=True)
class Job:
    """The settings of one run, apart from those of its writer.

    ``configs/negatives.yaml`` explains each.
    """

    input: str
    caption: str
    image: str
    output: Path
    balance: bool
    shard: tuple[int, int]
    prices: tuple[float, float]
    seed: int

    @property
    def answers_folder(self) -> Path:
        """The folder of the store."""
        return self.output / "answers"

    def rows(self) -> Iterator[CaptionRow]:
        """Read the input again from its start."""
        return read_captions(self.input, self.caption, self.image)

    def first_captions(self, count: int) -> list[str]:
        """Return the first ``count`` distinct captions."""
        return list(islice(distinct_captions(self.rows()), count))


@dataclass(frozen=True)
class Result:
    """The result of a run: the summary of the dataset, and facts for its data card."""

    summary: Summary
    facts: dict[str, Any]


def run(job: Job, writer: Writer) -> Result | None:
    """Write the missing negatives, then check and export all of them.

    Args:
        job: the settings of the run.
        writer: writes and checks the negatives.

    Returns:
        None for a shard: the run without ``shard`` exports.
    """
    store = Store(job.answers_folder)
    write_missing(job, writer, store)
    if job.shard != WHOLE:
        return None
    rows = writer.check_rows(job.rows(), store)
    summary = write_dataset(rows, job.output, image_type(job.input, job.image), job.balance, job.seed, writer.kinds)
    return Result(summary, writer.describe() | _token_facts(store, job.prices))


def write_missing(job: Job, writer: Writer, store: Store) -> None:
    """Let the writer answer the tasks that have no answer in the store.

    Finished answers are written to the disk even if an error ends the run.

    Args:
        job: the settings of the run.
        writer: writes the answers.
        store: holds the answers; it is closed at the end.
    """
    if store.num_truncated:
        print(f"{store.num_truncated} truncated lines of {store.folder} are skipped; their captions are answered again")
    total = sum(1 for _ in distinct_tasks(job.rows(), writer.kinds, job.shard))
    progress = Progress(total, job.prices, disable=None if total else True)
    try:
        writer.write(distinct_tasks(job.rows(), writer.kinds, job.shard), store, progress)
    finally:
        store.close()
        progress.close()


def distinct_tasks(
    rows: Iterable[CaptionRow], kinds: Sequence[str], shard: tuple[int, int]
) -> Iterator[tuple[str, str]]:
    """Yield every distinct caption of a shard with every kind.

    Args:
        rows: rows of the input.
        kinds: keys of ``KINDS``.
        shard: index and number of shards.
    """
    for caption in distinct_captions(row for row in rows if in_shard(row.caption, shard)):
        for kind in kinds:
            yield caption, kind


def distinct_captions(rows: Iterable[CaptionRow]) -> Iterator[str]:
    """Yield every caption once, in order."""
    seen: set[int] = set()  # hashes, because they take less memory than captions
    for row in rows:
        if row.caption and hash(row.caption) not in seen:
            seen.add(hash(row.caption))
            yield row.caption


def _token_facts(store: Store, prices: tuple[float, float]) -> dict[str, str]:
    if not any(store.tokens):
        return {}
    facts = {"tokens": "{:,} in, {:,} out".format(*store.tokens)}
    cost = dollars(store.tokens, prices)
    return facts | ({"cost": f"${cost:.2f}"} if cost else {})
