"""Crops are torchvision's in distribution and depend on their own generator only."""

import random

import pytest
import torch
from torchvision.transforms import v2

from degla.data.transforms import TrainTransform


@pytest.mark.parametrize("scale", [(0.9, 1.0), (0.08, 1.0)])
@pytest.mark.parametrize("shape", [(50, 60), (20, 200), (200, 20)])
def test_crops_are_distributed_as_torchvisions(scale, shape):
    image = torch.zeros(3, *shape, dtype=torch.uint8)
    ours, theirs = TrainTransform((8, 8), scale), v2.RandomResizedCrop((8, 8), scale=scale)
    torch.manual_seed(0)
    rng = random.Random(0)
    mine = torch.tensor([ours.box(*shape, rng) for _ in range(4000)]).float()
    drawn = [theirs.make_params([image]) for _ in range(4000)]
    reference = torch.tensor([[box[key] for key in ("top", "left", "height", "width")] for box in drawn]).float()
    error = 5 * (mine.var(0) / 4000 + reference.var(0) / 4000).sqrt() + 1e-6
    assert ((mine.mean(0) - reference.mean(0)).abs() < error).all()
    assert torch.allclose(mine.std(0), reference.std(0), rtol=0.1, atol=1e-6)
    assert torch.equal(mine.amin(0), mine.amin(0).clamp(min=0))
    assert (mine[:, 0] + mine[:, 2] <= shape[0]).all() and (mine[:, 1] + mine[:, 3] <= shape[1]).all()


def test_a_crop_depends_on_its_own_generator_only():
    image = torch.randint(0, 256, (3, 50, 60), dtype=torch.uint8)
    transform = TrainTransform((16, 16), (0.5, 1.0))
    state = torch.random.get_rng_state()
    first = transform(image, random.Random("row 1"))
    assert torch.equal(torch.random.get_rng_state(), state) and first.shape == (3, 16, 16)
    torch.manual_seed(1)
    assert torch.equal(first, transform(image, random.Random("row 1")))
    assert not torch.equal(first, transform(image, random.Random("row 2")))
