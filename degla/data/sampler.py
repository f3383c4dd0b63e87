"""The order of rows over a whole run.

It depends on the seed only, so a run can be resumed at any batch.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from degla.data.collate import Draw
from degla.data.computed_order import STORED_ROWS, RowsExcept, permuted
from degla.data.unique_images import count_repeats, spread_images
from degla.errors import ConfigError


class RunSampler(Sampler[list[Draw]]):
    """Yields one rank's share of every batch of the run, over all passes.

    Batch number b holds the same rows for any number of ranks and workers, so both may change when a run is
    resumed. Without ``drop_last`` every pass holds every row exactly once. A last batch of less than half the size
    is joined with the batch before it, and their rows are divided evenly, so that every rank gets some.

    The order of a pass over more than 2**27 rows is computed for each batch, so the memory does not depend on the
    number of rows. Smaller orders, and those that spread images, are stored with 8 bytes a row.

    Args:
        indices: ``(N,)`` rows to train on.
        global_batch_size: rows of a batch over all ranks.
        epochs: passes over the rows, each in its own order.
        seed: of the orders, and of the random choices for each row.
        drop_last: leave out the rows of each pass that do not fill a batch.
        rank: this process.
        world_size: number of processes; each takes a contiguous part of every batch.
        start: batches to leave out at the beginning, because the run that is resumed has trained on them.
        image_ids: ``(N,)`` int64 images of the rows; a batch then holds an image at most once where that is possible.
            None leaves the order as it was drawn.

    Raises:
        ConfigError: the rows do not give a single batch, or a batch has fewer rows than there are ranks.
    """

    def __init__(
        self,
        indices: np.ndarray | RowsExcept,
        global_batch_size: int,
        epochs: int,
        seed: int,
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        image_ids: np.ndarray | None = None,
    ):
        self.sizes = _batch_sizes(len(indices), global_batch_size, drop_last)
        if not len(self.sizes) or global_batch_size < world_size:
            raise ConfigError(
                f"{len(indices)} training rows give no batch of loader.global_batch_size={global_batch_size} on "
                f"{world_size} process(es): lower it, or set loader.drop_last=false"
            )
        if self.sizes.smallest < world_size:
            raise ConfigError(
                f"the last batch of {len(indices)} training rows has {self.sizes.smallest} rows, fewer than the "
                f"{world_size} processes: set loader.drop_last=true, or raise loader.global_batch_size"
            )
        self.indices = indices
        self.batches_per_epoch = len(self.sizes)
        self.epochs = epochs
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start = start
        self.image_ids = image_ids

    def __len__(self) -> int:
        """Return the number of batches of the whole run; a progress bar also counts those before ``start``."""
        return self.batches_per_epoch * self.epochs

    def __iter__(self) -> Iterator[list[Draw]]:
        order, order_epoch = np.zeros(0, np.int64), -1
        for number in range(self.start, len(self)):
            epoch, batch = divmod(number, self.batches_per_epoch)
            start, stop = self.sizes.span(batch)
            if self._is_computed:
                rows = self.indices[permuted(np.arange(start, stop), len(self.indices), self.seed, epoch)]
            else:
                if epoch != order_epoch:
                    order, order_epoch = self._order(epoch), epoch
                rows = order[start:stop]
            share = np.array_split(rows, self.world_size)[self.rank]
            yield [Draw(int(row), f"{self.seed}-{epoch}-{row}") for row in share]

    @property
    def _is_computed(self) -> bool:
        return self.image_ids is None and len(self.indices) > STORED_ROWS

    def _order(self, epoch: int) -> np.ndarray:
        """Return the ``(N,)`` rows of a pass in their order."""
        if self.image_ids is None:
            return np.random.default_rng((self.seed, epoch)).permutation(np.asarray(self.indices))
        order: np.ndarray = self.indices[self._places(epoch, self.image_ids)]
        return order

    def _places(self, epoch: int, image_ids: np.ndarray) -> np.ndarray:
        """Return the ``(N,)`` places in ``indices``, images spread over the batches."""
        places = np.random.default_rng((self.seed, epoch)).permutation(len(self.indices))
        rng = np.random.default_rng((self.seed, epoch, 1))
        return spread_images(places, image_ids[places], self.sizes.to_list(), rng)

    def count_repeats(self) -> int:
        """Return how many batches of the first pass hold an image more than once; 0 if the images are not known."""
        if self.image_ids is None:
            return 0
        return count_repeats(self.image_ids[self._places(0, self.image_ids)], self.sizes.to_list())


@dataclass(frozen=True)
class _BatchSizes:
    """The sizes of the batches of a pass: all are equal but the last ones."""

    size: int
    num_equal: int
    last: tuple[int, ...]

    def __len__(self) -> int:
        return self.num_equal + len(self.last)

    @property
    def smallest(self) -> int:
        """Return the size of the smallest batch."""
        return min((self.size,) * bool(self.num_equal) + self.last)

    def span(self, batch: int) -> tuple[int, int]:
        """Return the first row of a batch, and the row after its last one."""
        num_last = max(0, batch - self.num_equal)
        start = min(batch, self.num_equal) * self.size + sum(self.last[:num_last])
        return start, start + (self.size if batch < self.num_equal else self.last[num_last])

    def to_list(self) -> list[int]:
        """Return the size of each batch."""
        return [self.size] * self.num_equal + list(self.last)


def _batch_sizes(rows: int, batch_size: int, drop_last: bool) -> _BatchSizes:
    """Return the sizes of a pass's batches. They must not depend on the number of ranks, which may change."""
    full, rest = divmod(rows, batch_size)
    if drop_last or not rest:
        return _BatchSizes(batch_size, full, ())
    if full and 2 * rest < batch_size:
        joined = batch_size + rest
        return _BatchSizes(batch_size, full - 1, (joined - joined // 2, joined // 2))
    return _BatchSizes(batch_size, full, (rest,))


class ShardSampler(Sampler[list[Draw]]):
    """Yields one rank's share of the validation rows, in order; every row is read once over all ranks.

    No row is repeated to fill up, because that would bias the score. All ranks have the same number of batches,
    because they communicate in each one; so with several ranks a batch may have ``batch_size + 1`` rows.

    Args:
        indices: ``(N,)`` rows to validate on.
        batch_size: rows of a batch on one rank.
        rank: this process.
        world_size: number of processes.

    Raises:
        ConfigError: there are fewer rows than ranks.
    """

    def __init__(self, indices: np.ndarray, batch_size: int, rank: int = 0, world_size: int = 1):
        smallest_share = len(indices) // world_size
        if not smallest_share:
            raise ConfigError(
                f"{len(indices)} validation row(s) cannot be shared by {world_size} processes: raise "
                "loader.val_fraction, or name other rows with data@val_data=..."
            )
        num_batches = math.ceil(smallest_share / batch_size)
        batches = np.array_split(np.array_split(indices, world_size)[rank], num_batches)
        self.batches = [[Draw(int(row), f"validation-{row}") for row in batch] for batch in batches]

    def __len__(self) -> int:
        """Return the number of batches of this rank."""
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter(self.batches)
