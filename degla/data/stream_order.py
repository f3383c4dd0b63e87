"""The order in which a pass reads the records of a stream, and positions in it from which reading can continue.

The shards come in a random order. A few of them are open at a time and are read in turns, a chunk of records from each.
Whole chunks make up a block, and the records of a block are shuffled. Everything random depends on the seed, the number
of the pass and the number of the block. So the position in every open shard at the start of a block is all that is
needed to continue from there.
"""

import itertools
import json
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import datasets
import numpy as np

from degla.data.sources.records import Record
from degla.errors import DataError

_OPEN_SHARDS = 10  # shards that are read in turns

ShardState = dict[str, Any]  # what ``IterableDataset.state_dict`` returns


class OpenShard(NamedTuple):
    """The position in a shard that is being read."""

    number: int  # in the order of the pass
    state: ShardState | None  # None: nothing was read yet


class BlockStart(NamedTuple):
    """A position at the start of a block; plain data."""

    epoch: int  # pass
    row: int  # records of the pass before the block
    block: int  # number of the block in the pass
    turn: int  # slot that is read next
    slots: list[OpenShard | None]  # None: all shards of the slot have been read
    next_shard: int  # of the pass, to be opened when another one ends
    checksum: int  # of the first record of each chunk of the block

    def to_json(self) -> str:
        """Return the position as text."""
        return json.dumps(self)

    @classmethod
    def from_json(cls, text: str) -> "BlockStart":
        """Return the position of a text of ``to_json``."""
        values = dict(zip(cls._fields, json.loads(text), strict=True))
        return cls(**values | {"slots": [slot and OpenShard(*slot) for slot in values["slots"]]})


class Block(NamedTuple):
    """The records of a block in shuffled order."""

    start: BlockStart | None  # None where reading cannot continue from the block
    records: list[Record]


class ChangedStreamError(Exception):
    """The records at a saved position are not those that were there when it was saved."""


def blocks_of_pass(
    dataset: datasets.IterableDataset, seed: int, epoch: int, block_size: int, start: BlockStart | None = None
) -> Iterator[Block]:
    """Yield the blocks of a pass, the same ones in every process and DataLoader worker.

    Args:
        dataset: the streamed table.
        seed: of the order.
        epoch: number of the pass; each has its own order.
        block_size: records that are shuffled together. A block has a few more, because it consists of whole chunks.
        start: position in this pass from which to continue; None reads from its beginning.

    Raises:
        ChangedStreamError: the first block differs from the one that was read when ``start`` was saved.
        DataError: a shard cannot be read; the ``datasets`` library has logged which one.
    """
    with ThreadPoolExecutor(_OPEN_SHARDS) as threads:
        reader = _TurnReader(dataset, seed, epoch, block_size, threads, start)
        row, number = (start.row, start.block) if start else (0, 0)
        while True:
            turn, slots, next_shard = reader.position()
            chunks: list[list[Record]] = []
            while sum(map(len, chunks)) < block_size and (chunk := reader.next_chunk()):
                chunks.append(chunk)
            if not chunks:
                return
            checksum = _checksum(chunks)
            if start and number == start.block and checksum != start.checksum:
                raise ChangedStreamError(f"block {number} of pass {epoch}")
            records = list(itertools.chain.from_iterable(chunks))
            order = np.random.default_rng((seed, epoch, number)).permutation(len(records))
            yield Block(BlockStart(epoch, row, number, turn, slots, next_shard, checksum), [records[i] for i in order])
            row, number = row + len(records), number + 1


class _TurnReader:
    """Reads the shards of a pass in turns."""

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        seed: int,
        epoch: int,
        block_size: int,
        threads: ThreadPoolExecutor,
        start: BlockStart | None,
    ):
        self.dataset = dataset
        self.order = np.random.default_rng((seed, epoch)).permutation(dataset.num_shards).tolist()
        num_slots = min(_OPEN_SHARDS, len(self.order))
        self.chunk_size = max(1, block_size // num_slots)
        self.threads = threads
        slots = start.slots if start else [OpenShard(number, None) for number in range(num_slots)]
        self.slots = [self._open(*slot) if slot else None for slot in slots]
        self.turn = start.turn if start else 0
        self.next_shard = start.next_shard if start else num_slots

    def position(self) -> tuple[int, list[OpenShard | None], int]:
        """Return turn, slots and next shard of a ``BlockStart``."""
        slots = [OpenShard(shard.number, shard.state) if shard else None for shard in self.slots]
        return self.turn, slots, self.next_shard

    def next_chunk(self) -> list[Record]:
        """Return the next records of the shard whose turn it is; an empty list at the end of the pass."""
        for _ in self.slots:
            slot, self.turn = self.turn, (self.turn + 1) % len(self.slots)
            while (shard := self.slots[slot]) is not None:
                if chunk := shard.take():
                    return chunk
                self.slots[slot] = None
                if self.next_shard < len(self.order):
                    self.slots[slot] = self._open(self.next_shard)
                    self.next_shard += 1
        return []

    def _open(self, number: int, state: ShardState | None = None) -> "_ShardReader":
        shard = self.dataset.shard(len(self.order), self.order[number])
        return _ShardReader(shard, number, state, self.chunk_size, self.threads)


class _ShardReader:
    """Reads a shard a chunk at a time; a thread reads the next chunk while the last one is used."""

    def __init__(
        self,
        shard: datasets.IterableDataset,
        number: int,
        state: ShardState | None,
        chunk_size: int,
        threads: ThreadPoolExecutor,
    ):
        self.number = number
        self.state = state  # after the last chunk that was taken
        self.shard = shard
        if state is not None:
            shard.load_state_dict(state)
        # Not iter(shard): inside a DataLoader worker that yields only the worker's share.
        self.batches = shard.iter(batch_size=chunk_size)
        self.threads = threads
        self.next: Future[tuple[list[Record], ShardState | None]] = threads.submit(self._read)

    def take(self) -> list[Record]:
        """Return the next records; an empty list at the end of the shard."""
        records, self.state = self.next.result()
        if records:
            self.next = self.threads.submit(self._read)
        return records

    def _read(self) -> tuple[list[Record], ShardState | None]:
        try:
            batch = next(self.batches, None)
        except Exception as error:
            raise unreadable_shard(error) from error
        if batch is None:
            return [], None
        return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)], (
            self.shard.state_dict()
        )


def unreadable_shard(error: Exception) -> DataError:
    """Return the error for the user.

    Args:
        error: what ``datasets`` raised; it has logged the name of the shard.
    """
    return DataError(
        f"a shard of the stream cannot be read ({type(error).__name__}: {str(error)[:200]}); the line above names it: "
        "repair it, or leave it out of data.data_files"
    )


def _checksum(chunks: list[list[Record]]) -> int:
    checksum = 0
    for chunk in chunks:
        checksum = zlib.crc32(repr(chunk[0]).encode(errors="replace"), checksum)
    return checksum
