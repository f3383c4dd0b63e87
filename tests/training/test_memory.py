"""The memory plan against the allocations of real steps, in the trainer of a run."""

import gc

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.profiler import ProfilerActivity, profile

from degla.report.memory import MemoryRecord, describe_memory, memory_section, read_memory
from degla.training.build import build
from degla.training.memory import LiveBytes, plan_step
from degla.training.memory_run import free_memory, record_plan, sample_batch, shortage
from tests.configs.test_configs import composed
from tests.conftest import TINY, degla, only_run
from tests.helpers.allocations import live_bytes, peak_of_events

GB = 10**9
RUN = (
    "data=scenes",
    "data.num_scenes=128",
    "loader.num_workers=0",
    "loader.global_batch_size=16",
    "trainer.accelerator=cpu",
    "trainer.max_steps=3",
    "logger=csv",
    *(f"callbacks.{name}=null" for name in ("progress_bar", "export", "checkpoint", "learning_rate", "batch_images")),
)


class Measure(Callback):
    """Records the allocations of the second and third step.

    The profiler does not see that memory is freed that was allocated before it started. So the gradients of the first
    step are freed by hand; the third step then meets those of the second, as all later steps do.
    """

    def __init__(self):
        self.peak = 0
        self.batch = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == trainer.accumulate_grad_batches:
            trainer.optimizers[0].zero_grad()
            gc.collect()
            self.before = live_bytes()
            self.profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self.profiler.__enter__()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 3 * trainer.accumulate_grad_batches - 1:
            self.batch = batch
            self.profiler.__exit__(None, None, None)
            self.peak = self.before + peak_of_events(self.profiler)


def built(folder, *overrides):
    return build(composed(*RUN, *overrides, run_dir=str(folder)))


CASES = {
    "tiny": ["model=tiny"],
    "tiny without negatives": ["model=tiny", "objective=clip"],
    "tiny chunked": ["model=tiny", "loader.chunk_size=4"],
    "tiny checkpointed": ["model=tiny", "model.grad_checkpointing=true"],
    "tiny bf16": ["model=tiny", "precision=bf16-mixed"],
    "tiny with its image tower frozen": ["model=tiny", "model.unlocked_image_groups=0", "teacher=frozen"],
    "tiny accumulating": ["model=tiny", "trainer.accumulate_grad_batches=2"],
    "scenes": ["model=scenes", "loader.global_batch_size=32"],
    "scenes, plain AdamW": ["model=scenes", "optimizer.fused=false", "loader.num_negatives=2"],
    "scenes chunked": ["model=scenes", "loader.global_batch_size=32", "loader.chunk_size=8"],
}


@pytest.mark.parametrize("case", CASES)
def test_the_plan_is_what_a_step_takes(tmp_path, case):
    """Within 15 % in the trainer, weights, teacher, gradients and optimizer state included."""
    gc.collect()
    of_other_tests = live_bytes()
    run = built(tmp_path, *CASES[case])
    record = record_plan(run.module, run.datamodule, run.trainer, tmp_path)
    measure = Measure()
    run.trainer.callbacks.append(measure)
    run.trainer.fit(run.module, run.datamodule)
    peak = measure.peak - of_other_tests
    assert record == read_memory(tmp_path) and record.total == pytest.approx(peak, rel=0.15)
    batch = measure.batch
    settings = {"precision": record.precision, "keeps_gradients": "accumulating" in case}
    if "chunked" not in case:  # the same texts, so nothing but the step can differ
        assert plan_step(run.module, batch, **settings).total == pytest.approx(peak, rel=0.03)


def test_the_plan_changes_nothing(tmp_path):
    run = built(tmp_path, "model=scenes")
    before = {name: value.clone() for name, value in run.module.state_dict().items()}
    random = torch.get_rng_state()
    record_plan(run.module, run.datamodule, run.trainer, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in run.module.state_dict().items())
    assert all(parameter.grad is None for parameter in run.module.parameters())
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("more", [["loader.chunk_size=4"], ["model.grad_checkpointing=true"], []])
def test_the_plan_of_a_gpu_keeps_layer_norms_in_float32(tmp_path, more):
    """Also where blocks run again in the backward pass."""
    run = built(tmp_path, "model=tiny", "precision=bf16-mixed", *more)
    batch = sample_batch(run.datamodule, 8, run.datamodule.collate.chunk_size)
    on_cpu, on_gpu = (plan_step(run.module, batch, "bf16-mixed", on_gpu=gpu) for gpu in (False, True))
    assert on_cpu.activations <= on_gpu.activations < plan_step(run.module, batch, "32").activations


def test_live_bytes_count_what_is_alive():
    weight = torch.nn.Linear(10, 10)
    live = LiveBytes(weight)
    with live:
        first = torch.zeros(100)
        view = first[:50]
        second = first + 1
        assert live.now == live.peak == 800
        del first, second
        assert live.now == 400  # the view keeps the storage
        del view
        weight.weight.t()
        assert live.now == 0 and live.peak == 800


def test_a_step_that_does_not_fit_names_settings_that_do(tmp_path, monkeypatch, caplog):
    run = built(tmp_path, "model=tiny", "loader.global_batch_size=64")
    needed = record_plan(run.module, run.datamodule, run.trainer, tmp_path).total
    monkeypatch.setattr("degla.training.memory_run.free_memory", lambda device: round(0.8 * needed))
    record = record_plan(run.module, run.datamodule, run.trainer, tmp_path)
    assert not record.fits and next(iter(record.remedies)).startswith("loader.chunk_size=")
    expected = [
        "model.grad_checkpointing=true",
        "precision=bf16-mixed",
        "adapter=lora",
        "model.unlocked_image_groups=0",
    ]
    assert list(record.remedies)[1:] == expected and all(size < needed for size in record.remedies.values())
    chunk, needed_then = next(iter(record.remedies.items()))
    assert needed_then <= record.available and f"set {chunk} (" in caplog.text
    again = built(tmp_path / "again", "model=tiny", "loader.global_batch_size=64", chunk)
    assert record_plan(again.module, again.datamodule, again.trainer, tmp_path).total == pytest.approx(
        needed_then, rel=0.01
    )


def test_where_no_setting_is_enough_several_are_combined():
    record = MemoryRecord(
        weights=GB, teacher=GB, gradients=GB, optimizer=2 * GB, activations=7 * GB, precision="32", samples=64,
        encoded_at_once=64, device="CPU", available=2 * GB, remedies={"a.b=1": 3 * GB, "c.d=2": 4 * GB},
    )  # fmt: skip
    assert shortage(record).startswith(
        "a step needs about 12.0 GB and 2.00 GB are free: combine a.b=1 (3.00 GB) and c.d=2"
    )
    assert describe_memory(record) == (
        "about 12.0 GB a step (weights 1.00, teacher 1.00, gradients 1.00, optimizer 2.00, activations 7.00); 2.00 free"
    )


def test_batches_of_the_plan_are_like_those_of_the_run(tmp_path):
    run = built(tmp_path, "model=scenes")
    batch = sample_batch(run.datamodule, 8, chunk_size=None)
    real = next(iter(run.datamodule.train_dataloader()))
    assert batch.images.shape[1:] == real.images.shape[1:] and len(batch.samples) == 8 and len(batch.chunks) == 1
    assert batch.negatives.shape[1] == real.negatives.shape[1]
    assert len(sample_batch(run.datamodule, 8, chunk_size=4).chunks) == 2


def test_free_memory_of_this_machine():
    assert free_memory(torch.device("cpu")) > 0


@pytest.mark.slow
def test_console_and_report_say_it(photo_folder, tmp_path):
    arguments = [argument for argument in TINY if argument != "callbacks.memory=null"]
    arguments += [f"data.path={photo_folder}", "loader.global_batch_size=4", "trainer.max_steps=2"]
    output = degla(*arguments, "callbacks.memory.run_dir=${run_dir}", cwd=tmp_path).stdout
    assert "memory      about 0." in output and "weights 0.03, teacher 0.03, gradients 0.03, optimizer 0.06" in output
    run = only_run(tmp_path)
    assert "<h2>Memory</h2>" in memory_section(run) and memory_section(run) in (run / "report.html").read_text()
    assert memory_section(tmp_path) == ""
