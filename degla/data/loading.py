"""What DataLoader workers run: whole batches from a table, or from a stream."""

import itertools
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Dataset, IterableDataset, get_worker_info
from torch.utils.data._utils import worker as torch_worker

from degla.data.collate import Collate, Draw
from degla.data.schema import Batch, Problem, Sample
from degla.data.sources.table import SampleStream, SampleTable
from degla.data.tokens import TokenTable
from degla.errors import DataError

_TRIES = 1000  # rows read on after a batch in which nothing could be used


class TableBatches(Dataset):
    """A batch for each list of draws.

    Args:
        table: the rows.
        collate: makes the batch.
        hard_images: add to each row one of its ``hard_image_rows`` with that row's caption and negatives,
            drawn at random; NegCLIP's batch of 2B images and texts.
        tokens: of the table's texts; None asks the tokenizer for every batch.
        pool: rows that may stand in where a batch has none that can be used; None: all.
    """

    def __init__(
        self,
        table: SampleTable,
        collate: Collate,
        hard_images: bool = False,
        tokens: TokenTable | None = None,
        pool: np.ndarray | None = None,
    ):
        self.pool = np.arange(len(table)) if pool is None else pool
        self.table = table
        self.tokens = tokens
        self.collate = collate
        self.hard_images = hard_images

    def __len__(self) -> int:
        return len(self.table)

    def __getitems__(self, draws: list[Draw]) -> Batch:
        """All rows of one batch in one call; never an empty batch, as a rank without rows would stall the rest."""
        rows = self._read(draws)
        if self.hard_images:
            partners = [
                Draw(draw.rng().choice(row.hard_image_rows), draw.seed + "-hard")
                for row, draw in rows
                if row.hard_image_rows
            ]
            rows += self._read(partners)
        batch = self.collate(rows)
        problems = list(batch.problems)
        for offset in range(1, _TRIES):
            if batch.samples:
                return batch._replace(problems=problems)
            number = int(self.pool[(draws[-1].index + offset) % len(self.pool)])
            substitute = Draw(number, draws[-1].seed)
            batch = self.collate(self._read([substitute]))
            problems += batch.problems
        raise _nothing_usable(problems)

    def _read(self, draws: list[Draw]) -> list[tuple[Sample, Draw]]:
        if not draws:
            return []
        indices = [draw.index for draw in draws]
        rows = self.table.samples(indices)
        if self.tokens is not None:
            tokens = self.tokens.samples(indices)
            rows = [row._replace(tokens=found) for row, found in zip(rows, tokens, strict=True)]
        return list(zip(rows, draws, strict=True))


class StreamBatches(IterableDataset):
    """Batches of one rank from an endlessly repeated stream.

    A batch takes ``batch_size`` rows off the stream and holds those that could be read, or an earlier row if
    none could, so that its place in the stream does not depend on which could. Resuming reads the rows before
    ``start`` again, without decoding, and drops them: with as many ranks and workers as before, the next
    batches are those that would have come.

    Args:
        stream: the rows.
        collate: makes the batch.
        batch_size: rows on this rank.
        seed: of shuffling, crops and choices.
        rank: this process.
        world_size: number of processes.
        start: batches this rank has trained on already.

    Raises:
        DataError: while iterating: nothing at all can be used.
    """

    def __init__(
        self,
        stream: SampleStream,
        collate: Collate,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        start: int,
    ):
        self.stream = stream
        self.collate = collate
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start = start

    def __iter__(self) -> Iterator[Batch]:
        done = self._done_by_this_worker()
        rows = self._endless()
        spare: list[tuple[Sample, Draw]] = []  # for a batch in which nothing can be used
        for row in itertools.islice(rows, done * self.batch_size):
            spare = [row]
        problems: list[Problem] = []
        while chunk := list(itertools.islice(rows, self.batch_size)):
            batch = self.collate(chunk)
            problems += batch.problems
            if batch.samples:
                spare = [pair for pair in chunk if pair[0].id == batch.samples[0].id][:1]
            elif spare:
                batch = self.collate(spare)
            if batch.samples:
                yield batch._replace(problems=problems)
                problems = []
            elif len(problems) >= _TRIES:
                raise _nothing_usable(problems)

    def _endless(self) -> Iterator[tuple[Sample, Draw]]:
        for epoch in itertools.count():
            empty = True
            for number, row in enumerate(self.stream.samples(self.seed, epoch, self.rank, self.world_size)):
                empty = False
                yield row, Draw(number, f"{self.seed}-{epoch}-{row.id}")
            if empty:  # more workers than shards: this one has nothing to read
                return

    def _done_by_this_worker(self) -> int:
        """Batches that were read by the worker whose turn is this worker's now.

        The loader asks its workers in turn, beginning with the first; where another was next when the run was
        stopped, the workers change their parts of the shards, which ``datasets`` gives out by number.
        """
        worker = get_worker_info()
        if worker is None:
            return self.start
        shards = self.stream.dataset.num_shards
        if shards % self.world_size == 0:  # else every rank reads every shard, and leaves out the others' rows
            shards //= self.world_size
        busy = min(worker.num_workers, shards)
        if worker.id >= busy:
            return 0
        number = (worker.id + self.start) % busy
        known = {"id": number, "num_workers": worker.num_workers, "seed": worker.seed, "dataset": worker.dataset}
        torch_worker._worker_info = torch_worker.WorkerInfo(**known)
        return self.start // busy + (number < self.start % busy)


def _nothing_usable(problems: list[Problem]) -> DataError:
    first = problems[0]
    return DataError(f"{len(problems)} rows in a row cannot be used; the first: {first.row}: {first.reason}")


def as_is(batch: Batch) -> Batch:
    """The collate function of loaders whose dataset yields whole batches."""
    return batch
