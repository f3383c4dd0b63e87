import pytest
import torch
import torch.nn.functional as F

from degla.losses import Features


def random_features(rows=6, slots=3, dim=8, seed=0, dtype=torch.float64, ragged=True):
    """Random unit-norm features; ragged masks, the first row without any negative."""
    generator = torch.Generator().manual_seed(seed)

    def unit(*shape):
        return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).to(dtype)

    mask = torch.ones(rows, slots, dtype=torch.bool)
    if ragged:
        mask = torch.rand(rows, slots, generator=generator) < 0.6
        mask[0], mask[1] = False, True
    return Features(unit(rows, dim), unit(rows, dim), unit(rows, slots, dim), mask, torch.tensor(7.5, dtype=dtype))


@pytest.fixture
def make_features():
    return random_features
