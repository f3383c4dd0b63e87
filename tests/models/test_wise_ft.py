import pytest
import torch

from degla.errors import CheckpointError
from degla.models import interpolate_weights


def test_ends_and_middle():
    base = {"w": torch.tensor([0.0, 2.0]), "n": torch.tensor(3)}
    tuned = {"w": torch.tensor([4.0, 2.0]), "n": torch.tensor(5)}
    assert interpolate_weights(base, tuned, 0.0)["w"].tolist() == [0.0, 2.0]
    assert interpolate_weights(base, tuned, 0.25)["w"].tolist() == [1.0, 2.0]
    assert interpolate_weights(base, tuned, 1.0)["w"].tolist() == [4.0, 2.0]
    assert interpolate_weights(base, tuned, 0.5)["n"] == 5


def test_other_architecture_is_refused():
    with pytest.raises(CheckpointError, match="'b' is in one of them only"):
        interpolate_weights({"a": torch.ones(1)}, {"a": torch.ones(1), "b": torch.ones(1)}, 0.5)
