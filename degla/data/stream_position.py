"""Positions in the sequence of all passes over a stream, and the part of a checkpoint that holds one."""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from degla.data.sources.records import Record
from degla.data.sources.table import SampleStream
from degla.data.stream_order import BlockStart
from degla.errors import DataError

log = logging.getLogger(__name__)

StreamRow = tuple[int, int, Record]  # pass, row of the pass, record

# Version of the order of a stream. It changes with the order, so that a run keeps the order that it began with.
_ORDER = 2
_EARLIER_ORDER = 1


class StreamBookmark(NamedTuple):
    """A position from which a resumed run can read."""

    rows_before: int  # of all passes
    start: BlockStart


def endless_rows(
    stream: SampleStream,
    seed: int,
    skip: int = 0,
    epoch: int = 0,
    bookmark: StreamBookmark | None = None,
    passed: Callable[[StreamBookmark], None] | None = None,
) -> Iterator[StreamRow]:
    """Yield the rows of all passes in sequence, without end.

    Args:
        stream: the samples.
        seed: of the shuffled order.
        skip: rows to leave out, from the start of pass ``epoch``; with a bookmark, from the start of the run.
        epoch: number of the first pass; the bookmark's pass takes its place.
        bookmark: position at or before the first row, from which to read.
        passed: called with each position from which the rows that follow can be read.

    Raises:
        ChangedStreamError: other records are at the bookmark than when it was made.
        DataError: the stream holds no rows, or a shard cannot be read.
    """
    start, rows_before_pass = None, 0
    if bookmark is not None:
        start, epoch = bookmark.start, bookmark.start.epoch
        skip -= bookmark.rows_before
        rows_before_pass = bookmark.rows_before - bookmark.start.row
    while True:
        length = start.row if start else 0
        for block in stream.blocks(seed, epoch, start):
            if passed and block.start and skip < len(block.records):
                passed(StreamBookmark(rows_before_pass + length, block.start))
            for row, record in enumerate(block.records[skip:], length + skip):
                yield epoch, row, record
            skip = max(0, skip - len(block.records))
            length += len(block.records)
        if not length:
            raise DataError("the stream holds no rows; check data.path, data.data_files and data.split")
        passes, skip = divmod(skip, length)  # every pass has as many rows: whole ones need not be read
        rows_before_pass += length * (1 + passes)
        epoch += 1 + passes
        start = None


def position_to_save(stream: SampleStream, seed: int, bookmark: StreamBookmark | None) -> dict[str, Any]:
    """Return the position of a stream as plain data for a checkpoint.

    Args:
        stream: the samples.
        seed: of the shuffled order.
        bookmark: the position; None if reading cannot continue from one.
    """
    saved: dict[str, Any] = {"order": _EARLIER_ORDER if stream.earlier_order else _ORDER, "bookmark": None}
    if bookmark is not None:
        try:
            # As text, because a checkpoint with other objects than plain data would not be loaded.
            start = bookmark.start.to_json()
        except TypeError as error:  # a reader of `datasets` that keeps other objects in its state
            log.debug(f"the position in the stream cannot be saved: {error}")
        else:
            saved["bookmark"] = [bookmark.rows_before, start, json.dumps(_identity(stream, seed))]
    return saved


def saved_position(
    stream: SampleStream, seed: int, saved: dict[str, Any] | None
) -> tuple[SampleStream, StreamBookmark | None]:
    """Return the stream in the order of the run that is resumed, and the position that its checkpoint holds.

    Args:
        stream: the samples as the config describes them.
        seed: of the shuffled order.
        saved: what ``position_to_save`` returned; None for a checkpoint of degla 0.1.
    """
    if saved is None or saved["order"] == _EARLIER_ORDER:
        return stream.in_earlier_order(), None
    if saved["bookmark"] is None:
        return stream, None
    rows_before, start, identity = saved["bookmark"]
    if json.loads(identity) != _identity(stream, seed):
        log.warning(
            "the stream has other shards or another data.shuffle_buffer than before, so its order is another one"
        )
        return stream, None
    return stream, StreamBookmark(rows_before, BlockStart.from_json(start))


def _identity(stream: SampleStream, seed: int) -> list[int]:
    """Return what decides the order of a stream, apart from its records."""
    return [seed, stream.shuffle_buffer, stream.dataset.num_shards]
