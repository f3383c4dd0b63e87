"""The order of rows over the whole run, a pure function of the seed: so a run can be resumed anywhere."""

import math
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from degla.data.collate import Draw


class RunSampler(Sampler[list[Draw]]):
    """Batches of all passes over the rows, one rank's share of each.

    Batch number b holds the same rows whatever the number of ranks and workers, so a run may go on with
    another number of either. (But a last batch of fewer rows than ranks is left out.)

    Args:
        indices: rows to train on.
        global_batch_size: rows of a batch over all ranks.
        epochs: passes over the rows, each in an order of its own.
        seed: of the orders, and of what is random about each row.
        drop_last: leave out a last, smaller batch of each pass.
        rank: this process.
        world_size: number of processes, each taking a contiguous part of every batch.
        start: batches to leave out at the beginning, because an earlier run trained on them.

    Raises:
        ValueError: not one batch comes out.
    """

    def __init__(
        self,
        indices: np.ndarray,
        global_batch_size: int,
        epochs: int,
        seed: int,
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
    ):
        full, rest = divmod(len(indices), global_batch_size)
        # A last batch with fewer rows than ranks would leave a rank without any.
        self.batches_per_epoch = full + (not drop_last and rest >= world_size)
        if not self.batches_per_epoch or global_batch_size < world_size:
            raise ValueError(
                f"{len(indices)} training rows give no batch of loader.global_batch_size={global_batch_size} on "
                f"{world_size} process(es); lower it, or set loader.drop_last=false"
            )
        self.indices = indices
        self.global_batch_size = global_batch_size
        self.epochs = epochs
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start = start

    def __len__(self) -> int:
        """Batches of the whole run, those before ``start`` included: a progress bar counts them."""
        return self.batches_per_epoch * self.epochs

    def __iter__(self) -> Iterator[list[Draw]]:
        order, order_epoch = None, None
        for number in range(self.start, len(self)):
            epoch, batch = divmod(number, self.batches_per_epoch)
            if epoch != order_epoch:
                order = np.random.default_rng((self.seed, epoch)).permutation(self.indices)
                order_epoch = epoch
            rows = order[batch * self.global_batch_size :][: self.global_batch_size]
            mine = np.array_split(rows, self.world_size)[self.rank]
            yield [Draw(int(i), f"{self.seed}-{epoch}-{i}") for i in mine]


class ShardSampler(Sampler[list[Draw]]):
    """Every row once, in order, over the ranks; no row is repeated to fill up, which would bias a score.

    Each rank has as many batches as the others, since some meet in every batch, and some batches have one row more or
    fewer than others, with several ranks perhaps ``batch_size`` + 1.

    Raises:
        ValueError: there are fewer rows than ranks.
    """

    def __init__(self, indices: np.ndarray, batch_size: int, rank: int = 0, world_size: int = 1):
        least = len(indices) // world_size
        if not least:
            raise ValueError(f"{len(indices)} validation row(s) cannot be shared by {world_size} processes")
        batches = np.array_split(np.array_split(indices, world_size)[rank], math.ceil(least / batch_size))
        self.batches = [[Draw(int(i), f"validation-{i}") for i in batch] for batch in batches]

    def __len__(self) -> int:
        """Batches of this rank."""
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter(self.batches)
