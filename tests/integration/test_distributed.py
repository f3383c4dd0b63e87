"""One process, two and four under DDP, and two under FSDP2 train alike, and resume each other's checkpoints."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from degla.artifacts import newest_checkpoint, read_metrics
from tests.conftest import TINY, degla, make_photo_folder, only_run, read_csv

pytestmark = pytest.mark.slow

LAYOUTS = {
    "one": [],
    "ddp": ["strategy=ddp", "trainer.devices=2"],
    "ddp4": ["strategy=ddp", "trainer.devices=4", "loader.chunk_size=1"],
    "auto": ["trainer.devices=2"],
    "fsdp2": ["strategy=fsdp2", "trainer.devices=2"],
}


def arguments(photos, *more):
    return [
        *TINY,
        f"data.path={photos}",
        "loader.global_batch_size=8",  # 28 samples: the last batch of a pass is smaller
        "loader.epochs=10",
        "trainer.accumulate_grad_batches=2",  # 20 steps
        "loader.drop_last=false",
        "data@val_data=folder",
        f"val_data.path={photos}",
        "scheduler.warmup_steps=3",
        "teacher.decay=0.9",
        "trainer.gradient_clip_val=1.0",
        *more,
    ]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photo_folder(tmp_path_factory.mktemp("distributed") / "photos", images=14)


def test_same_curves_and_weights_in_every_layout_and_from_one_to_another(photos, tmp_path):
    """One test, so that the runs are made once even where several processes share the tests."""
    more = ["benchmark=scenes", "benchmark.scenes.num_items=4", "callbacks.evaluate.every_n_steps=10",
            "callbacks.checkpoint.every_n_steps=10"]  # fmt: skip
    names = ("one", "ddp", "ddp4", "fsdp2")
    for name in names:
        degla(*arguments(photos, *LAYOUTS[name], *more, f"name={name}"), cwd=tmp_path)
    runs = {name: only_run(tmp_path, name) for name in names}
    for layout in ("ddp", "ddp4", "fsdp2"):
        compare(runs, layout)
    for first, then in (("fsdp2", "one"), ("one", "fsdp2")):
        # A run that changes its layout half-way has the loss curve of the run that did not.
        halfway = runs[first] / "checkpoints" / "step-00000010.ckpt"
        degla(*arguments(photos, *LAYOUTS[then], f"ckpt_path={halfway}", f"name=moved-{then}"), cwd=tmp_path)
        run = only_run(tmp_path, f"moved-{then}")
        stayed, moved = (read_metrics(path / "metrics.csv")["train/loss"] for path in (runs[first], run))
        assert list(moved) == list(range(10, 20))
        assert list(moved.values()) == pytest.approx([stayed[step] for step in moved], rel=1e-5)


def weights(run):
    return torch.load(newest_checkpoint(run / "checkpoints"), weights_only=True)["state_dict"]


def compare(runs, layout):
    one, other = (read_metrics(runs[name] / "metrics.csv") for name in ("one", layout))
    assert len(one["train/loss"]) == 20
    for name, values in one.items():
        if name.startswith("eval"):  # with four items, the last bit can decide one of them
            assert other[name] == pytest.approx(values, abs=0.26), name
        elif name != "train/samples_per_second":
            assert other[name] == pytest.approx(values, rel=1e-5 if name == "train/loss" else 1e-4, abs=1e-6), name
    one_weights, other_weights = weights(runs["one"]), weights(runs[layout])
    assert one_weights.keys() == other_weights.keys()
    for name in one_weights:
        torch.testing.assert_close(other_weights[name], one_weights[name], rtol=1e-4, atol=2e-5)
    assert (runs[layout] / "model" / "open_clip_model.safetensors").is_file()
    assert list(one["eval_mean/overall"])[:2] == [0, 10]


def test_parameters_without_gradient_do_not_stop_ddp(photos, tmp_path):
    """TGC alone reads neither images nor the temperature."""
    off = ["objective.contrastive=0", "objective.igc=0", "objective.distill=0", "objective.tgc=1"]
    degla(*arguments(photos, *LAYOUTS["auto"], *off, "trainer.accumulate_grad_batches=2"), cwd=tmp_path)
    assert len(read_metrics(only_run(tmp_path) / "metrics.csv")["train/loss_tgc"]) >= 4


def test_bad_rows_on_two_ranks(photos, tmp_path):
    folder = make_photo_folder(tmp_path / "bad")
    (folder / "images" / "3.jpg").write_bytes(b"")
    degla(*arguments(folder, *LAYOUTS["ddp"], "loader.max_bad_fraction=0.5"), cwd=tmp_path)
    files = list(only_run(tmp_path).glob("bad_rows*.csv"))
    assert {record["row"] for file in files for record in read_csv(file)} == {"captions.jsonl:7", "captions.jsonl:8"}


def test_a_rank_that_stops_ends_the_others(tmp_path):
    folder = make_photo_folder(tmp_path / "bad")
    for i in range(6):  # so that either rank may read one first
        (folder / "images" / f"{i}.jpg").write_bytes(b"")
    command = [sys.executable, "-m", "degla.train", *arguments(folder, *LAYOUTS["ddp"], "loader.max_bad_fraction=0")]
    # New interpreters, as Lightning starts them for a user; the other tests of this file copy one.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert result.returncode != 0 and "cannot be used" in result.stderr
    time.sleep(2)
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert not any(str(folder).encode() in command for command in commands)
