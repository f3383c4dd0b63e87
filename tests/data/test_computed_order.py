"""Orders of tables that are too large to store them: permutations, the same everywhere, shared by the ranks."""

import itertools
import tracemalloc

import numpy as np
import pytest

from degla.data import sampler as sampler_module
from degla.data.computed_order import STORED_ROWS, RowsExcept, permuted
from degla.data.sampler import RunSampler

BILLION = 1_000_000_007


@pytest.mark.parametrize("size", [*range(1, 40), 255, 256, 257, 1000, 65_537])
def test_every_number_comes_once(size):
    moved = permuted(np.arange(size), size, seed=3, epoch=1)
    assert np.array_equal(np.sort(moved), np.arange(size))
    assert np.array_equal(moved[: size // 2], permuted(np.arange(size // 2), size, seed=3, epoch=1))


def test_the_order_never_changes():
    """A run that is resumed by a later release reads the same rows."""
    assert permuted(np.arange(6), 1000, seed=42, epoch=0).tolist() == [48, 833, 887, 671, 682, 43]
    assert permuted(np.arange(4), BILLION, seed=42, epoch=7).tolist() == [431217179, 237837637, 560942056, 586683481]


def test_orders_look_random():
    """Each tenth of a pass holds about as many rows of each tenth of the table; passes and seeds differ."""
    size = 100_000
    orders = [permuted(np.arange(size), size, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for one, other in itertools.combinations([np.arange(size), *orders], 2):
        counts = np.histogram2d(one, other, bins=10)[0]
        # The chi-square statistic of 81 degrees of freedom; more than 140 has a probability of 5e-5.
        assert ((counts - 1000) ** 2 / 1000).sum() < 140
        assert (one == other).sum() < 12  # one is expected
    steps = np.diff(orders[0])
    assert abs(np.corrcoef(steps[:-1], steps[1:])[0, 1] + 0.5) < 0.02  # of a random permutation: -1/2


@pytest.mark.parametrize("left_out", [[], [0], [9], [0, 1, 2], [3, 5, 9], list(range(9)), list(range(1, 10))])
def test_rows_that_are_kept(left_out):
    rows = RowsExcept(10, np.array(left_out, dtype=np.int64))
    kept = [row for row in range(10) if row not in left_out]
    assert len(rows) == len(kept) and rows.tolist() == kept and [rows[place] for place in range(len(kept))] == kept
    assert np.asarray(rows).tolist() == kept and rows[1:3].tolist() == kept[1:3]
    places = np.arange(len(kept))[::-1]
    assert rows[places].tolist() == kept[::-1]


def test_the_computed_order_is_used_above_the_limit_only(monkeypatch):
    """At the limit, runs of earlier releases go on with the order that was stored."""

    def rows(num_rows, **settings):
        return [draw.row for batch in RunSampler(np.arange(num_rows), 7, 2, 5, False, **settings) for draw in batch]

    stored = rows(50)
    assert stored[:50] == np.random.default_rng((5, 0)).permutation(50).tolist()
    monkeypatch.setattr(sampler_module, "STORED_ROWS", 50)
    assert rows(50) == stored
    monkeypatch.setattr(sampler_module, "STORED_ROWS", 49)
    computed = rows(50)
    assert computed != stored
    for epoch in (0, 1):
        assert computed[50 * epoch : 50 * epoch + 50] == permuted(np.arange(50), 50, 5, epoch).tolist()
    assert sorted(computed[:50]) == sorted(computed[50:]) == list(range(50))
    parts = [[list(batch) for batch in RunSampler(np.arange(50), 7, 2, 5, False, rank, 3)] for rank in range(3)]
    assert [draw.row for batch in zip(*parts, strict=True) for part in batch for draw in part] == computed
    resumed = RunSampler(np.arange(50), 7, 2, 5, False, start=3)
    assert [draw.row for batch in resumed for draw in batch] == computed[21:]
    images = np.arange(50) // 2
    assert sorted(rows(50, image_ids=images)[:50]) == list(range(50))  # spread images are stored at any size


def test_a_billion_rows_need_no_memory():
    """Two ranks, a start in the third pass, and 1 % of the rows held out."""
    held_out = np.arange(0, BILLION, 100_000)
    tracemalloc.start()
    indices = RowsExcept(BILLION, held_out)
    start = 2 * (len(indices) // 4096) + 1000
    parts = [iter(RunSampler(indices, 4096, 3, 0, True, rank, 2, start)) for rank in range(2)]
    drawn = [draw.row for _ in range(5) for part in parts for draw in next(part)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(indices) > STORED_ROWS
    assert len(drawn) == len(set(drawn)) == 5 * 4096 and min(drawn) >= 0 and max(drawn) < BILLION
    assert not set(drawn) & set(held_out.tolist())
    assert peak < 10e6
