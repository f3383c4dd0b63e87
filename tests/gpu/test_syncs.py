"""A training step on a GPU never makes the host wait, apart from the steps in which Lightning logs."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from degla.training.build import build
from tests.configs.test_configs import composed
from tests.conftest import make_photo_folder

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class RefuseSyncs(Callback):
    """Makes every wait for the device an error, from the first step after those that allocate and compile."""

    def __init__(self):
        self.num_steps = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step >= 3:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.num_steps += torch.cuda.get_sync_debug_mode() == 2
        torch.cuda.set_sync_debug_mode("default")

    def on_exception(self, trainer, pl_module, exception) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("attention", ["groups", "tree"])
@pytest.mark.parametrize("non_finite", ["stop", "skip"])
def test_a_step_does_not_wait(tmp_path, attention, non_finite):
    photos = make_photo_folder(tmp_path / "photos")
    settings = ["model=vit_b_32", "model.pretrained=null", f"data.path={photos}", "loader.num_workers=2"]
    sizes = ["loader.global_batch_size=8", "loader.epochs=9", "trainer.max_steps=8", "trainer.log_every_n_steps=100"]
    device = ["trainer.accelerator=gpu", "trainer.devices=1", "precision=bf16-mixed", "callbacks.batch_images=null"]
    chosen = [f"model.text_attention={attention}", f"non_finite={non_finite}", "trainer.gradient_clip_val=1"]
    run = build(composed(*settings, *sizes, *device, *chosen, run_dir=str(tmp_path / "run")))
    refuse = RefuseSyncs()
    run.trainer.callbacks = [refuse]
    run.trainer.fit(run.module, run.datamodule)
    assert refuse.num_steps == 5
