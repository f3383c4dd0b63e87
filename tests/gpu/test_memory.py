"""The memory plan against the GPU's allocator, in the trainer of a run."""

import pytest
import torch

from degla.report.memory import read_memory
from degla.training.build import build
from degla.training.memory_run import record_plan
from tests.configs.test_configs import composed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CASES = {
    "float32": [],
    "bf16": ["precision=bf16-mixed"],
    "chunked": ["precision=bf16-mixed", "loader.chunk_size=16"],
    "checkpointed": ["model.grad_checkpointing=true"],
    "image tower frozen": ["model.unlocked_image_groups=0", "teacher=frozen"],
}


@pytest.mark.parametrize("case", CASES)
def test_the_plan_is_what_a_step_takes(tmp_path, case):
    """Within 15 % of the allocator's peak, which ``callbacks.memory`` records."""
    settings = ["model=vit_b_32", "model.pretrained=null", "loader.global_batch_size=64", "loader.num_workers=2"]
    data = ["data=scenes", "data.num_scenes=640", "logger=csv", "trainer.accelerator=gpu", "trainer.devices=1"]
    off = [f"callbacks.{name}=null" for name in ("progress_bar", "export", "checkpoint", "batch_images")]
    run = build(composed(*settings, *data, *off, "trainer.max_steps=8", *CASES[case], run_dir=str(tmp_path)))
    planned = record_plan(run.module, run.datamodule, run.trainer, tmp_path)
    assert planned is not None and planned.fits and planned.available
    run.trainer.fit(run.module, run.datamodule)
    record = read_memory(tmp_path)
    assert record is not None and planned.total == pytest.approx(record.measured, rel=0.15)
