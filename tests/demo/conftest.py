import pytest
import torch

from degla.models import load_clip, save_open_clip
from tests.helpers.forked import degla_forked


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory):
    """A folder with ``runs/demo/<time>`` as a short ``make demo`` leaves it."""
    folder = tmp_path_factory.mktemp("tried")
    result = degla_forked("experiment=demo", "data.num_scenes=64", "loader.num_workers=0", "loader.global_batch_size=8",
                          "trainer.max_steps=2", "benchmark=none", "callbacks.progress_bar=null",
                          "trainer.accelerator=cpu", cwd=folder)  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return next((folder / "runs/demo").iterdir())


@pytest.fixture(scope="session")
def pair_folders(tmp_path_factory):
    """Two folders with models of equal architecture and different weights: ``base`` and ``tuned``."""
    folder = tmp_path_factory.mktemp("pair")
    model = load_clip("degla-scenes", "plain_clip").eval()
    save_open_clip(model, folder / "base")
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.clip.parameters():
            weight += 0.02 * weight.abs().mean() * torch.randn_like(weight)
    save_open_clip(model, folder / "tuned")
    return folder
