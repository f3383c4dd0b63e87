"""What DataLoader workers run: whole batches from a table or from a stream.

Shapes: N rows.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from degla.compat.torch import set_worker_number
from degla.data.batch import Batch
from degla.data.collate import Collate, Draw
from degla.data.schema import Problem, Sample
from degla.data.sources.table import SampleStream, SampleTable
from degla.data.tokens import TokenTable
from degla.errors import DataError

_MAX_TRIES = 1000  # rows that are tried in place of a batch in which no sample can be used


class TableBatches(Dataset[Batch]):
    """A batch for each list of draws.

    Args:
        table: the samples.
        collate: makes the batch.
        hard_images: add to each sample one of its ``hard_image_rows``, drawn at random, with its own caption and
            negatives. That is NegCLIP's batch of 2B images and texts.
        tokens: of the table's texts; None tokenizes every batch.
        pool: ``(N,)`` rows that may replace a batch in which no sample can be used; None: all.
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
        """Read all samples of one batch in one call.

        The batch is never empty: a rank without samples would let the other ranks wait forever.
        """
        samples = self._read(draws)
        if self.hard_images:
            partners = [
                Draw(draw.rng().choice(sample.hard_image_rows), draw.seed + "-hard")
                for sample, draw in samples
                if sample.hard_image_rows
            ]
            samples += self._read(partners)
        batch = self.collate(samples)
        problems = list(batch.problems)
        for offset in range(1, _MAX_TRIES):
            if batch.samples:
                return batch._replace(problems=problems)
            row = int(self.pool[(draws[-1].row + offset) % len(self.pool)])
            batch = self.collate(self._read([Draw(row, draws[-1].seed)]))
            problems += batch.problems
        raise _nothing_usable(problems)

    def _read(self, draws: list[Draw]) -> list[tuple[Sample, Draw]]:
        if not draws:
            return []
        rows = [draw.row for draw in draws]
        samples = self.table.samples(rows)
        if self.tokens is not None:
            tokens = self.tokens.samples(rows)
            samples = [sample._replace(tokens=ids) for sample, ids in zip(samples, tokens, strict=True)]
        return list(zip(samples, draws, strict=True))


class StreamBatches(IterableDataset[Batch]):
    """Batches of one rank from an endlessly repeated stream.

    A batch takes ``batch_size`` samples off the stream and holds those that can be used, or an earlier sample if
    none can. So its position in the stream does not depend on which samples can be used. Resuming reads the samples
    before ``start`` again without decoding them. With as many ranks and workers as before, the next batches are the
    same as without the stop.

    Args:
        stream: the samples.
        collate: makes the batch.
        batch_size: samples on this rank.
        seed: of shuffling, crops and choices.
        rank: this process.
        world_size: number of processes.
        start: batches this rank has trained on already.

    Raises:
        DataError: while iterating, if no sample at all can be used.
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
        samples = self._endless()
        spare: list[tuple[Sample, Draw]] = []  # for a batch in which no sample can be used
        for pair in itertools.islice(samples, done * self.batch_size):
            spare = [pair]
        problems: list[Problem] = []
        while chunk := list(itertools.islice(samples, self.batch_size)):
            batch = self.collate(chunk)
            problems += batch.problems
            if batch.samples:
                spare = [pair for pair in chunk if pair[0].id == batch.samples[0].id][:1]
            elif spare:
                batch = self.collate(spare)
            if batch.samples:
                yield batch._replace(problems=problems)
                problems = []
            elif len(problems) >= _MAX_TRIES:
                raise _nothing_usable(problems)

    def _endless(self) -> Iterator[tuple[Sample, Draw]]:
        for epoch in itertools.count():
            empty = True
            for row, sample in enumerate(self.stream.samples(self.seed, epoch, self.rank, self.world_size)):
                empty = False
                yield sample, Draw(row, f"{self.seed}-{epoch}-{sample.id}")
            if empty:  # more workers than shards: this one has nothing to read
                return

    def _done_by_this_worker(self) -> int:
        """Return the batches that were read by the worker whose turn is this worker's now.

        The loader asks its workers in turn, beginning with the first. If another worker was next when the run was
        stopped, the workers swap numbers, because ``datasets`` assigns shards to workers by number.
        """
        worker = get_worker_info()
        if worker is None:
            return self.start
        shards: int = self.stream.dataset.num_shards
        if shards % self.world_size == 0:  # else every rank reads every shard and leaves out the other ranks' rows
            shards //= self.world_size
        busy = min(worker.num_workers, shards)
        if worker.id >= busy:
            return 0
        number = (worker.id + self.start) % busy
        set_worker_number(number)
        return self.start // busy + (number < self.start % busy)


def _nothing_usable(problems: list[Problem]) -> DataError:
    first = problems[0]
    return DataError(
        f"none of {len(problems)} rows in sequence could be used; the first failure was {first.row}: {first.reason}; "
        "check data.image_root and the columns that data names"
    )


def identity_collate(batch: Any) -> Any:
    """Return a ``Batch`` unchanged, for loaders whose data set yields whole batches.

    Typed for ``DataLoader``, which expects a function of a list of items.
    """
    return batch
