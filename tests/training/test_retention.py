"""The retention guard: its rule, its names, and runs of one and two processes, killed and not."""

import json
import logging
import os
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from degla.artifacts import newest_checkpoint, read_metrics
from degla.errors import CheckpointError, ConfigError
from degla.evaluation.tasks.retrieval import Retrieval
from degla.evaluation.tasks.scenes import Scenes
from degla.models import interpolate_weights
from degla.models.checkpoints import read_weights
from degla.report.retention import Candidate, RetentionRecord, read_retention, retention_section
from degla.training.build import build
from degla.training.callbacks import Retention
from degla.training.retention import (
    Rule,
    available_metrics,
    check_metric,
    choice_tasks,
    measurements_since,
    nearest,
)
from degla.training.run_folder import find_checkpoint
from tests.configs.test_configs import composed
from tests.conftest import degla, only_run
from tests.helpers.forked import start_forked

METRIC, RETAIN = "eval_mean/scenes/compositional", "eval_mean/scenes/general"
RUN = (
    "experiment=scenes_finetune",
    "callbacks=retention",
    f"callbacks.retention.metric={METRIC}",
    f"callbacks.retention.retain={RETAIN}",
    "callbacks.retention.every_n_steps=2",
    "callbacks.retention.wise_ft=[0,0.5,1]",
    "callbacks.evaluate.every_n_steps=100",
    "callbacks.progress_bar=null",
    "data.num_scenes=128",
    "loader.global_batch_size=8",
    "loader.num_workers=0",
    "optimizer.lr=2e-3",
    "scheduler.warmup_steps=1",
    "trainer.accelerator=cpu",
    "trainer.max_steps=6",
    "trainer.log_every_n_steps=1",
    "benchmark.scenes.num_items=6",
)


def candidate(step, metric, retain, wise_ft=1.0):
    return Candidate(step=step, wise_ft=wise_ft, metric=metric, retain=retain)


def fitted(folder, *overrides):
    run = build(composed(*RUN, *overrides, run_dir=str(folder)))
    run.trainer.fit(run.module, run.datamodule)
    return run


def guard_of(run):
    return next(callback for callback in run.trainer.callbacks if isinstance(callback, Retention))


def test_the_rule():
    rule = Rule(limit=0.9)
    history = [candidate(2, 0.5, 0.95), candidate(4, 0.7, 0.9), candidate(6, 0.9, 0.89), candidate(8, 0.7, 0.9)]
    assert rule.best(history) == history[1]  # the first of equal ones, exactly at the limit
    assert rule.best(history[2:3]) is None and rule.best_or_nearest(history[2:3]) == history[2]
    assert nearest([candidate(2, 0.9, 0.5), candidate(4, 0.1, 0.6)]).step == 4
    assert Rule(None).best([candidate(2, 0.5, None), candidate(4, 0.6, None)]).step == 4
    assert measurements_since(history[1], history) == 2 and rule.best([]) is None


def test_a_higher_retention_decides_between_equal_metrics():
    assert Rule(0.1).best([candidate(2, 0.5, 0.7), candidate(4, 0.5, 0.8)]).step == 4


def test_available_metrics_are_those_that_a_run_logs(tmp_path):
    run = fitted(tmp_path, "trainer.max_steps=2", "loader.val_fraction=0.2")
    logged = {name for name in read_metrics(tmp_path / "metrics.csv") if name.startswith(("val/", "eval"))}
    types = run.module.caption_choice.negative_types
    tasks = {"scenes": Scenes(num_items=6)}
    assert set(available_metrics(tasks, types, has_validation=True)) == logged
    values = read_metrics(tmp_path / "metrics.csv")
    record = read_retention(tmp_path)
    assert record.base.metric == values[METRIC][0] and record.base.retain == values[RETAIN][0]
    assert record.steps[-1].metric == values[METRIC][2] == values["retention/metric"][2]


def test_values_of_validation_are_those_of_the_run(tmp_path):
    more = ["callbacks.retention.metric=val/caption_choice", "callbacks.retention.retain=val/image_to_text_r@1"]
    fitted(tmp_path, *more, "benchmark=none", "loader.val_fraction=0.3", "trainer.val_check_interval=2")
    values, record = read_metrics(tmp_path / "metrics.csv"), read_retention(tmp_path)
    for measured in (record.base, *record.steps):
        assert measured.metric == values["val/caption_choice"][measured.step]
        assert measured.retain == values["val/image_to_text_r@1"][measured.step]
    assert record.measured_on == {"val": "the run's validation samples"}


def test_unknown_names_are_refused_before_the_first_step(tmp_path):
    available = ["val/caption_choice", "eval_mean/scenes/general"]
    with pytest.raises(ConfigError, match=r"x\.metric is not set: choose one of val/caption_choice, eval_mean"):
        check_metric("x.metric", None, available)
    with pytest.raises(ConfigError, match="did you mean val/caption_choice, or"):
        check_metric("x.metric", "val/caption_choise", available)
    with pytest.raises(ConfigError, match="measures nothing"):
        check_metric("x.metric", "val/caption_choice", [])
    with pytest.raises(
        ConfigError,
        match=r"retention.retain=eval_mean/scenes/genral is not measured .* mean eval_mean/scenes/general, or",
    ):
        fitted(tmp_path, "callbacks.retention.retain=eval_mean/scenes/genral")
    assert not (tmp_path / "metrics.csv").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("floor=1.1", "from 0 to 1"),
        ("wise_ft=[]", "numbers from 0"),
        ("patience=0", "or null"),
        ("every_n_steps=0", "1"),
    ],
)
def test_settings_out_of_range(setting, message):
    with pytest.raises(ConfigError, match=message):
        build(composed(*RUN, f"callbacks.retention.{setting}"))


def test_test_data_do_not_choose(tmp_path, caplog):
    """The built-in world's test split is replaced by its validation split; other benchmarks warn."""
    tasks = choice_tasks({"scenes": Scenes(split="test", num_items=6, subsets=None)}, {"scenes"})
    assert tasks.own["scenes"].split == "validation" and not tasks.shared and not tasks.test_data
    run = fitted(tmp_path, "benchmark.scenes.split=test", "trainer.max_steps=2")
    values, record = read_metrics(tmp_path / "metrics.csv"), read_retention(tmp_path)
    assert record.measured_on == {"scenes": "its validation split"} and "chooses by test data" not in caplog.text
    validation = fitted(tmp_path / "validation", "trainer.max_steps=2")
    assert record.base == guard_of(run).base == guard_of(validation).base
    assert record.base.metric != values[METRIC][0]  # which is the test split's

    published, held_out = Retrieval("coco.json", "images"), Retrieval("dataset.json", "images", split="val")
    tasks = choice_tasks({"coco": published, "val": held_out, "unused": published}, {"coco", "val"})
    assert tasks.test_data == ["coco"] and set(tasks.shared) == {"coco", "val"} and not tasks.own


def test_model_is_the_chosen_mix_and_the_run_goes_on_from_the_last_step(tmp_path):
    """A floor that the last step misses: the model is a mix, and the last checkpoint still holds the student."""
    run = fitted(tmp_path / "guarded", "callbacks.retention.floor=0.99", "optimizer.lr=3e-4")
    folder = tmp_path / "guarded"
    without = [setting for setting in RUN if not setting.startswith(("callbacks=", "callbacks.retention"))]
    plain = build(composed(*without, "optimizer.lr=3e-4", run_dir=str(tmp_path / "plain")))
    plain.trainer.fit(plain.module, plain.datamodule)
    states = [
        torch.load(newest_checkpoint(path / "checkpoints"), weights_only=True)["state_dict"]
        for path in (folder, tmp_path / "plain")
    ]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    record = RetentionRecord.model_validate(json.loads((folder / "retention.json").read_text()))
    assert record.chosen in (record.base, *record.steps, *record.mixes) and record.limit == 0.99 * record.base.retain
    assert record.chosen.retain >= record.limit
    best = Rule(record.limit).best_or_nearest(record.steps)
    assert {mix.step for mix in record.mixes} == {best.step, 6} and {mix.wise_ft for mix in record.mixes} == {0.5}
    files = sorted((folder / "checkpoints").glob("best-*.ckpt"))
    assert f"best-{best.step:08d}.ckpt" in [file.name for file in files]
    exported = load_file(folder / "model/open_clip_model.safetensors")
    base = read_weights(folder / "checkpoints/base.ckpt").state
    tuned = run.module.student.clip.state_dict()
    if record.chosen.step not in (0, 6):
        tuned = read_weights(folder / f"checkpoints/best-{record.chosen.step:08d}.ckpt").state
    expected = interpolate_weights(base, tuned, record.chosen.wise_ft)
    assert all(torch.equal(exported[name], value.reshape(exported[name].shape)) for name, value in expected.items())


def test_no_candidate_meets_the_floor(tmp_path, caplog):
    """The base is kept, with a loud warning that names the nearest."""
    more = ["optimizer.lr=0.05", "callbacks.retention.floor=1.0", "callbacks.retention.wise_ft=[0.9,1]"]
    with caplog.at_level(logging.WARNING):
        fitted(tmp_path, *more)
    record = read_retention(tmp_path)
    assert not record.meets_floor and record.chosen == record.base
    assert record.nearest == nearest(
        [*(s for s in record.steps if s.step in {m.step for m in record.mixes}), *record.mixes]
    )
    assert f"Step {record.nearest.step} with wise_ft={record.nearest.wise_ft:g} comes nearest" in caplog.text
    exported = load_file(tmp_path / "model/open_clip_model.safetensors")
    base = read_weights(tmp_path / "checkpoints/base.ckpt").state
    assert all(torch.equal(exported[name], value.reshape(exported[name].shape)) for name, value in base.items())
    page = retention_section(tmp_path)
    assert "below the floor" in page and "nothing else meets the floor" in page and page.count("data:image/png") == 1


def test_patience_stops_the_run_and_a_resumed_run_at_the_same_step(tmp_path):
    """A learning rate of 0: no step is better than the first that is measured."""
    still = ["optimizer.lr=0", "callbacks.retention.patience=2", "trainer.max_steps=50"]
    run = fitted(tmp_path, *still)
    assert run.trainer.global_step == 6 and read_retention(tmp_path).stopped_early
    resumed = build(composed(*RUN, *still, run_dir=str(tmp_path)))
    resumed.trainer.fit(resumed.module, resumed.datamodule, ckpt_path=newest_checkpoint(tmp_path / "checkpoints"))
    assert resumed.trainer.global_step == 6


def test_weights_of_the_guard_are_no_checkpoint_to_resume(tmp_path):
    fitted(tmp_path, "trainer.max_steps=2")
    with pytest.raises(CheckpointError, match="holds weights only"):
        find_checkpoint(str(tmp_path / "checkpoints/best-00000002.ckpt"), tmp_path)


def content_of(cwd):
    """Return what the guard leaves: its record, and the files of the model."""
    run = only_run(cwd, "scenes_finetune")
    names = ("open_clip_model.safetensors", "open_clip_config.json")
    return (run / "retention.json").read_text(), [(run / "model" / name).read_bytes() for name in names]


@pytest.mark.slow
def test_a_killed_run_makes_the_same_choice(tmp_path):
    """Killed twice with SIGKILL, once between two checkpoints, with measurements that the checkpoint lacks."""
    settings = ["trainer.max_steps=12", "callbacks.checkpoint.every_n_steps=3", "ckpt_path=last", "optimizer.lr=5e-4"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    straight.mkdir(), killed.mkdir()
    degla(*RUN, *settings, cwd=straight)
    for step in (5, 9):
        process = start_forked(*RUN, *settings, cwd=killed)
        deadline = time.time() + 120
        while time.time() < deadline and process.is_alive():
            files = list(killed.glob("runs/*/*/metrics.csv"))
            if files and max(read_metrics(files[0]).get("train/loss", {0: 0})) >= step:
                break
            time.sleep(0.02)
        assert process.is_alive(), (killed / "stderr").read_text()[-3000:]
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
    degla(*RUN, *settings, cwd=killed)
    assert content_of(killed) == content_of(straight)


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Both ranks measure the same, and ``model/`` holds the choice."""
    degla(*RUN, "trainer.devices=2", "teacher=frozen", cwd=tmp_path)
    run = only_run(tmp_path, "scenes_finetune")
    record = read_retention(run)
    assert [c.step for c in record.steps] == [2, 4, 6] and record.mixes
    exported = load_file(run / "model/open_clip_model.safetensors")
    base = read_weights(run / "checkpoints/base.ckpt").state
    newest = newest_checkpoint(run / "checkpoints")
    file = newest if record.chosen.step in (0, 6) else run / f"checkpoints/best-{record.chosen.step:08d}.ckpt"
    expected = interpolate_weights(base, read_weights(file).state, record.chosen.wise_ft)
    assert all(torch.equal(exported[name], value.reshape(exported[name].shape)) for name, value in expected.items())
