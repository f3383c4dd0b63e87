"""The data sets that DataLoader workers read: whole batches from a table or from a stream.

Shapes: N rows.
"""

import itertools
import logging
import random
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset, Sampler

from degla.data.batch import Batch
from degla.data.collate import Collate, Draw
from degla.data.computed_order import RowsExcept
from degla.data.identity import normalized
from degla.data.image_rows import RowsOfImages
from degla.data.schema import Problem, Sample, TokenizedText
from degla.data.sources.table import SampleStream, SampleTable
from degla.data.stream_order import ChangedStreamError
from degla.data.stream_position import StreamBookmark, StreamRow, endless_rows
from degla.data.tokens import TokenTable
from degla.errors import ConfigError, DataError

log = logging.getLogger(__name__)

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
        rows_of_images: finds the rows whose captions are second captions; None if no term reads them.
    """

    def __init__(
        self,
        table: SampleTable,
        collate: Collate,
        hard_images: bool = False,
        tokens: TokenTable | None = None,
        pool: np.ndarray | RowsExcept | None = None,
        rows_of_images: RowsOfImages | None = None,
    ):
        self.rows_of_images = rows_of_images
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
        problems: list[Problem] = []
        if self.hard_images:
            samples += self._read(self._partners(samples, problems))
        batch = self.collate(samples)
        problems += batch.problems
        for offset in range(1, _MAX_TRIES):
            if batch.samples:
                return batch._replace(problems=problems)
            row = int(self.pool[(draws[-1].row + offset) % len(self.pool)])
            batch = self.collate(self._read([Draw(row, draws[-1].seed)]))
            problems += batch.problems
        raise _nothing_usable(problems)

    def _partners(self, samples: list[tuple[Sample, Draw]], problems: list[Problem]) -> list[Draw]:
        """Draw a row with a similar image for each sample; a row beyond the table becomes a problem."""
        partners = []
        for sample, draw in samples:
            if not sample.hard_image_rows:
                continue
            row = draw.rng().choice(sample.hard_image_rows)
            if 0 <= row < len(self.table):
                partners.append(Draw(row, draw.seed + "-hard"))
            else:
                reason = f"similar image {row} is beyond the {len(self.table)} rows of the table"
                problems.append(Problem(sample.id, reason, skipped=False))
        return partners

    def _read(self, draws: list[Draw]) -> list[tuple[Sample, Draw]]:
        if not draws:
            return []
        rows = [draw.row for draw in draws]
        samples = self.table.samples(rows)
        if self.tokens is not None:
            tokens = self.tokens.samples(rows)
            samples = [sample._replace(tokens=ids) for sample, ids in zip(samples, tokens, strict=True)]
        if self.rows_of_images is not None:
            samples = self._with_other_captions(samples, draws, self.rows_of_images)
        return list(zip(samples, draws, strict=True))

    def _with_other_captions(
        self, samples: list[Sample], draws: list[Draw], rows_of_images: RowsOfImages
    ) -> list[Sample]:
        """Add to each sample the caption of another row of its image, drawn at random; equal captions are passed over.

        Rows are read together, one of each sample at a time, because a read of one row takes as long as one of many.
        """
        samples = list(samples)
        waiting = {}  # number of a sample -> rows that were not tried yet
        for number, (sample, draw) in enumerate(zip(samples, draws, strict=True)):
            rows = [] if sample.captions else rows_of_images.others(draw.row)
            random.Random(f"{draw.seed}-other-row").shuffle(rows)
            waiting[number] = rows
        while waiting := {number: rows for number, rows in waiting.items() if rows}:
            captions = self._read_captions([rows.pop() for rows in waiting.values()])
            for number, caption in zip(list(waiting), captions, strict=True):
                if normalized(caption.text) not in ("", normalized(samples[number].caption)):
                    samples[number] = samples[number]._replace(other_caption=caption)
                    del waiting[number]
        return samples

    def _read_captions(self, rows: list[int]) -> list[TokenizedText]:
        captions = [sample.caption for sample in self.table.reading(()).texts(rows)]
        tokens = [None] * len(rows) if self.tokens is None else self.tokens.samples(rows)
        return [
            TokenizedText(caption, None if stored is None else stored.ids[0])
            for caption, stored in zip(captions, tokens, strict=True)
        ]


class StreamShare(NamedTuple):
    """One rank's samples of one batch of a stream."""

    samples: list[tuple[Sample, Draw]]
    epoch: int  # pass and row from which to read on if none of the samples can be used
    next_row: int


class StreamSampler(Sampler[StreamShare]):
    """Reads a stream in the training process and yields one rank's share of every batch.

    The stream is repeated without end. Batch number b consists of the rows ``b * global_batch_size`` and following of
    all passes in sequence, and each rank takes its part of it. So every row is read exactly once per pass, and a
    batch holds the same samples, for any number of shards, ranks and workers. All of these may change when a run is
    resumed.

    The price is that every rank reads all shards. It skips the other ranks' rows before they are parsed or decoded.
    DataLoader workers do not read: they decode the samples that this class sends to them. Otherwise each worker would
    have to read all shards as well.

    Args:
        stream: the samples.
        global_batch_size: samples of a batch over all ranks.
        seed: of shuffling, crops and choices.
        rank: this process.
        world_size: number of processes; each takes a contiguous part of every batch.
        start: batches to leave out, because the run that is resumed has trained on them.
        bookmark: position before batch ``start`` from which to read. Without one, or if the stream has other records
            there now, all rows before batch ``start`` are read again without decoding, at most one pass of them.
        read_ahead: batches that a loader takes before they are trained on. ``bookmark_before`` looks back so far.

    Raises:
        ConfigError: a batch has fewer samples than there are processes.
    """

    def __init__(
        self,
        stream: SampleStream,
        global_batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        bookmark: StreamBookmark | None = None,
        read_ahead: int = 0,
    ):
        if global_batch_size < world_size:
            raise ConfigError(
                f"loader.global_batch_size={global_batch_size} must be at least the number of processes, {world_size}"
            )
        self.stream = stream
        self.global_batch_size = global_batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start = start
        self.bookmark = bookmark
        self.read_ahead = read_ahead
        self._bookmarks: deque[StreamBookmark] = deque()

    def __iter__(self) -> Iterator[StreamShare]:
        first = self.global_batch_size * self.rank // self.world_size
        last = self.global_batch_size * (self.rank + 1) // self.world_size
        rows = self._rows_from_start()
        for number in itertools.count(self.start):
            self._forget_bookmarks(before=number - self.read_ahead)
            share: list[tuple[Sample, Draw]] = []
            epoch, row = 0, 0
            for offset, (epoch, row, record) in enumerate(itertools.islice(rows, self.global_batch_size)):
                if first <= offset < last:
                    share.append(_drawn(self.stream, self.seed, epoch, row, record))
            yield StreamShare(share, epoch, row + 1)

    def bookmark_before(self, batch: int) -> StreamBookmark | None:
        """Return the last position from which a run that resumes with a batch can read; None if there is none.

        Args:
            batch: number of a batch that was taken not longer than ``read_ahead`` batches ago.
        """
        last_row = batch * self.global_batch_size
        return next((mark for mark in reversed(self._bookmarks) if mark.rows_before <= last_row), None)

    def _forget_bookmarks(self, before: int) -> None:
        while len(self._bookmarks) > 1 and self._bookmarks[1].rows_before <= before * self.global_batch_size:
            self._bookmarks.popleft()

    def _rows_from_start(self) -> Iterator[StreamRow]:
        """Yield the rows of batch ``start`` and of those after it."""
        skip = self.start * self.global_batch_size
        self._bookmarks.clear()
        if self.bookmark is not None and self.bookmark.rows_before <= skip:
            rows = endless_rows(self.stream, self.seed, skip, bookmark=self.bookmark, passed=self._bookmarks.append)
            try:
                first_row = next(rows)
            except ChangedStreamError as error:
                log.warning(f"the stream has other records than at the checkpoint ({error}): it is read from its start")
                self._bookmarks.clear()
            else:
                return itertools.chain([first_row], rows)
        return endless_rows(self.stream, self.seed, skip, passed=self._bookmarks.append)


class StreamBatches(Dataset[Batch]):
    """A batch for each share of a stream.

    The batch holds the samples that can be used. If none can, it holds the next sample of the stream that can.

    Args:
        stream: the samples.
        collate: makes the batch.
        seed: of shuffling, crops and choices.
    """

    def __init__(self, stream: SampleStream, collate: Collate, seed: int):
        self.stream = stream
        self.collate = collate
        self.seed = seed

    def __getitems__(self, share: StreamShare) -> Batch:
        """Decode and tokenize the samples of one share.

        Raises:
            DataError: neither the samples nor the next thousand of the stream can be used.
        """
        batch = self.collate(share.samples)
        if batch.samples:
            return batch
        problems = list(batch.problems)
        for epoch, row, record in endless_rows(self.stream, self.seed, share.next_row, share.epoch):
            batch = self.collate([_drawn(self.stream, self.seed, epoch, row, record)])
            problems += batch.problems
            if batch.samples:
                return batch._replace(problems=problems)
            if len(problems) >= _MAX_TRIES:
                break
        raise _nothing_usable(problems)


def _drawn(stream: SampleStream, seed: int, epoch: int, row: int, record: dict[str, Any]) -> tuple[Sample, Draw]:
    sample = stream.to_sample(record, row)
    return sample, Draw(row, f"{seed}-{epoch}-{sample.id}")


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
