"""Training as a user starts it."""

import json
import math

import open_clip
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from degla.artifacts import newest_checkpoint, read_metrics
from tests.conftest import TINY, degla, only_run, read_csv
from tests.helpers.forked import start_forked
from tests.integration.test_resume import wait_for_step

pytestmark = pytest.mark.slow

TERMS = ("train/loss", "train/loss_contrastive", "train/loss_igc", "train/loss_tgc", "train/loss_distill")


def test_a_run_leaves_everything_a_user_looks_for(photo_folder, tmp_path):
    output = degla(
        *TINY,
        f"data.path={photo_folder}",
        "loader.global_batch_size=4",
        "loader.epochs=2",
        "loader.val_fraction=0.3",
        "trainer.val_check_interval=4",
        cwd=tmp_path,
    ).stdout
    run = only_run(tmp_path)
    for name in (
        "config.yaml",
        "metrics.csv",
        "report.html",
        "model/open_clip_model.safetensors",
        ".hydra/overrides.yaml",
    ):
        assert (run / name).is_file(), name
    assert "caption_choice" in output and "tensorboard --logdir" in output
    steps = torch.load(newest_checkpoint(run / "checkpoints"), weights_only=True)["global_step"]

    metrics = read_metrics(run / "metrics.csv")
    for name in (*TERMS, "train/logit_scale", "teacher/decay", "lr-AdamW/pg1"):
        assert len(metrics[name]) == steps, name
        assert all(math.isfinite(value) for value in metrics[name].values())
    # Distillation starts at 0, the teacher being the student, up to the rounding of two attention kernels.
    assert metrics["train/loss_distill"][0] < 1e-9 < metrics["train/loss_distill"][steps - 1]
    weights = (1.0, 0.1, 0.1, 1.28)
    total = sum(w * metrics[name][3] for w, name in zip(weights, TERMS[1:], strict=True))
    assert total == pytest.approx(metrics["train/loss"][3], rel=1e-5)
    # Validation before the first step and after the last.
    assert list(metrics["val/caption_choice"]) == sorted({0, *range(4, steps, 4), steps})
    assert {f"val/{d}_r@{k}" for d in ("image_to_text", "text_to_image") for k in (1, 5, 10)} <= set(metrics)

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert set(TERMS) <= set(events.Tags()["scalars"])
    assert "train/samples_per_second" in events.Tags()["scalars"]
    assert any(tag.startswith("samples/") for tag in events.Tags()["images"])
    text = events.Tensors("samples/texts/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "**caption**" in text and "swap_nouns" in text
    assert (run / "tensorboard" / "hparams.yaml").is_file()
    model = open_clip.create_model(f"local-dir:{run / 'model'}")
    saved = torch.load(newest_checkpoint(run / "checkpoints"), weights_only=True)["state_dict"]
    assert torch.equal(model.visual.proj, saved["student.clip.visual.proj"])
    # The run's own checkpoint is a source of weights, and its export trains on.
    degla(*TINY, f"data.path={photo_folder}", "loader.global_batch_size=4", "loader.epochs=1", "trainer.max_steps=1",
          f"model.pretrained={run / 'model'}", "name=again", cwd=tmp_path)  # fmt: skip


def test_vit_b_32_on_real_photos_survives_a_kill(flickr, tmp_path):
    """Ten steps of the paper's model are interrupted by kill -9; the repeated steps are equal to the last bit.

    That the final weights are equal too is tested on tiny models, in test_resume.
    """
    arguments = [
        "model=vit_b_32",
        "model.pretrained=null",
        f"data.path={flickr}",
        "data.annotations=negatives.jsonl",
        "data.image_root=images",
        "loader.global_batch_size=2",
        "loader.num_workers=1",
        "trainer.max_steps=10",
        "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=1",
        "callbacks.progress_bar=null",
        "callbacks.export=null",
        "callbacks.checkpoint.every_n_steps=7",
        "ckpt_path=last",
    ]
    process = start_forked(*arguments, cwd=tmp_path)
    wait_for_step(process.is_alive, tmp_path, 8)
    process.kill()
    process.join(60)
    degla(*arguments, cwd=tmp_path)
    metrics = tmp_path.glob("runs/train/*/metrics.csv")
    logged = [row for path in metrics for row in read_csv(path) if row["name"] in TERMS]
    values = {}
    for row in logged:
        values.setdefault((row["name"], int(row["step"])), set()).add(row["value"])
    assert set(values) == {(name, step) for name in TERMS for step in range(10)}
    assert len(logged) > len(values) and all(len(same) == 1 for same in values.values())
    assert all(math.isfinite(float(value)) for (value,) in values.values())


def test_a_tiny_model_for_an_epoch_of_real_photos(flickr, tmp_path):
    degla(
        *TINY,
        f"data.path={flickr}",
        "data.annotations=negatives.jsonl",
        "data.image_root=images",
        "loader.global_batch_size=128",
        "loader.num_workers=2",
        "loader.epochs=1",
        "loader.val_fraction=0.1",
        "objective.igc=1",
        cwd=tmp_path,
    )
    metrics = read_metrics(only_run(tmp_path) / "metrics.csv")
    losses = list(metrics["train/loss"].values())
    assert len(losses) > 30 and sum(losses[-5:]) < sum(losses[:5])
    choice = list(metrics["val/caption_choice"].values())
    assert choice[-1] > choice[0]
    assert not (only_run(tmp_path) / "bad_rows.csv").exists()  # its README: every image decodes


def add_bad_rows(folder):
    """Add one row of each kind that cannot be used, or only in part."""
    lines = (folder / "captions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    images = folder / "images"
    jpeg = (images / "0.jpg").read_bytes()
    (images / "truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (images / "page.jpg").write_text("<html><body>404</body></html>")
    (images / "zero.jpg").write_bytes(b"")
    bad = {
        "truncated": {**rows[0], "image": "images/truncated.jpg"},
        "html": {**rows[0], "image": "images/page.jpg"},
        "zero": {**rows[0], "image": "images/zero.jpg"},
        "missing": {**rows[0], "image": "images/missing.jpg"},
        "empty": {**rows[1], "caption": ""},
        "long": {**rows[2], "caption": "word " * 1000},
        "none": {**rows[3], "negatives": []},
        "equal": {**rows[4], "negatives": [{"text": rows[4]["caption"], "type": "swap_nouns"}]},
    }
    (folder / "captions.jsonl").write_text("\n".join([*lines, *map(json.dumps, bad.values())]))
    return {name: f"captions.jsonl:{len(lines) + 1 + i}" for i, name in enumerate(bad)}


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_rows_are_reported_and_the_run_finishes(photo_folder, tmp_path, workers):
    rows = add_bad_rows(photo_folder)
    arguments = [*TINY, f"data.path={photo_folder}", "loader.global_batch_size=4", "loader.epochs=1"]
    arguments.append(f"loader.num_workers={workers}")
    output = degla(*arguments, "loader.max_bad_fraction=0.5", cwd=tmp_path).stdout
    report = {record["row"]: record for record in read_csv(only_run(tmp_path) / "bad_rows.csv")}
    assert set(report) == set(rows.values())
    words = {"truncated": "truncated", "html": "not an image", "zero": "empty file", "missing": "no such file",
             "empty": "empty caption", "long": "was truncated", "none": "no negatives",
             "equal": "equal to"}  # fmt: skip
    for name, word in words.items():
        assert word in report[rows[name]]["reason"]
        assert report[rows[name]]["skipped"] == ("no" if name in ("long", "none", "equal") else "yes")
    assert "1 row(s): no such file (skipped), such as " + rows["missing"] in output
    page = (only_run(tmp_path) / "report.html").read_text()
    assert all(row in page for row in rows.values())


@pytest.mark.parametrize("workers", [0, 2])
def test_no_tolerance_stops_with_the_row(photo_folder, tmp_path, workers):
    rows = add_bad_rows(photo_folder)
    result = degla(*TINY, f"data.path={photo_folder}", "loader.global_batch_size=4", "loader.max_bad_fraction=0",
                   f"loader.num_workers={workers}", cwd=tmp_path, check=False)  # fmt: skip
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("error: row captions.jsonl:")
    assert any(f"row {row} cannot be used" in result.stderr for row in rows.values())
    assert "loader.max_bad_fraction=0" in result.stderr


def test_accumulation_moves_the_teacher_once_a_step(photo_folder, tmp_path):
    output = degla(*TINY, f"data.path={photo_folder}", "loader.global_batch_size=4", "loader.epochs=1",
                   "trainer.accumulate_grad_batches=3", "teacher.decay=0.5", "callbacks.checkpoint.keep_last=-1",
                   "callbacks.checkpoint.every_n_steps=1", cwd=tmp_path).stdout  # fmt: skip
    assert "the optimizer and the EMA teacher step once every 12 samples" in output.replace("\n", " ")
    one, two = (
        torch.load(path, weights_only=True)["state_dict"]
        for path in sorted((only_run(tmp_path) / "checkpoints").iterdir())
    )
    name = "clip.visual.proj"
    expected = 0.5 * one[f"teacher.model.{name}"] + 0.5 * two[f"student.{name}"]
    torch.testing.assert_close(two[f"teacher.model.{name}"], expected)


def test_streaming(photo_folder, hub_dataset, tmp_path):
    for i in range(4):
        hub_dataset.shard(4, i).to_parquet(tmp_path / f"train-{i}.parquet")
    degla(*TINY, "data=hub_stream", "data.path=parquet", f"data.data_files={tmp_path}/*.parquet",
          "data@val_data=folder", f"val_data.path={photo_folder}", "loader.global_batch_size=4",
          "trainer.max_steps=9", "loader.num_workers=2", "scheduler.warmup_steps=2", cwd=tmp_path)  # fmt: skip
    metrics = read_metrics(only_run(tmp_path) / "metrics.csv")
    assert len(metrics["train/loss"]) == 9 and list(metrics["val/caption_choice"]) == [0, 9]


def test_demo_experiment(tmp_path):
    """Run `make demo` for three steps; the same command with ckpt_path=last then does nothing."""
    short = [
        "loader.num_workers=0",
        "data.num_scenes=200",
        "benchmark.scenes.num_items=10",
        "trainer.log_every_n_steps=1",
    ]
    output = degla("experiment=demo", *short, "trainer.max_steps=3", cwd=tmp_path).stdout
    assert "scenes/compositional" in output and "scenes/general" in output and "before" in output
    run = only_run(tmp_path, "demo")
    metrics = read_metrics(run / "metrics.csv")
    assert "train/loss_tgc" in metrics and list(metrics["eval_mean/scenes/general"]) == [0, 3]
    page = (run / "report.html").read_text()
    assert "sugarcrepe/swap_obj" in page and "general/digits" in page
    assert "Benchmark before and after, percent" in page and "<img" in page
    before = (run / "metrics.csv").read_bytes()
    again = degla("experiment=demo", *short, "trainer.max_steps=3", "ckpt_path=last", cwd=tmp_path)
    assert f"has finished already, with these settings: {run / 'report.html'}" in again.stdout + again.stderr
    assert (run / "metrics.csv").read_bytes() == before
