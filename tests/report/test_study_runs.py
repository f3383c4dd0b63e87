"""Runs found on the disk: what counts as a setting, what a run cost, and what is refused."""

import json
import os

import pytest
import yaml

from degla.errors import ConfigError
from degla.report.study_runs import base_of, find_runs
from degla.report.study_schema import setting_label

CONFIG = yaml.safe_load("""
name: degla
seed: 0
runs_dir: runs
model: {_target_: degla.models.load_clip, name: degla-scenes, pretrained: plain_clip, cache_dir: null}
objective: {_target_: degla.losses.Objective, terms: {igc: {_target_: degla.losses.IGC, weight: 0.1}}}
optimizer: {lr: 0.001, betas: [0.9, 0.98]}
loader: {num_workers: 0}
trainer: {max_steps: 200}
logger: {tensorboard: {save_dir: x}}
""")


def write(folder, place, *, finished='{"steps": 200, "value": 0.5}', **changes):
    """A run folder whose config has some keys changed, written ``key.key``; the seed also reaches the loader."""
    run = folder / place
    (run / "model").mkdir(parents=True)
    (run / "model/open_clip_model.safetensors").write_bytes(b"weights")
    config = json.loads(json.dumps(CONFIG))
    for key, value in changes.items():
        node = config
        *groups, last = key.split("__")
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    config["loader"]["seed"] = config["seed"]
    config["run_dir"], config["loader"]["report_path"] = str(run), str(run / "bad_rows.csv")
    config["callbacks"] = {"mine": {"path": str(run / "mine")}, "checkpoint": {"every_n_steps": config["seed"]}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "finished.json").write_text(finished)
    os.utime(run / "config.yaml", (0, (run / "finished.json").stat().st_mtime - 150))
    return run


def labels(folder):
    return {run.name: setting_label(run.setting) for run in find_runs(folder)}


def test_a_setting_is_what_differs_apart_from_the_seed(tmp_path):
    write(tmp_path, "a", loader__num_workers=4, logger__tensorboard__save_dir="y")
    write(tmp_path, "b/c/d", seed=1)
    write(tmp_path, "e", optimizer__lr=2.5e-4, objective__terms__igc__weight=1.0)
    write(tmp_path, "f", trainer__max_steps=600, optimizer__betas=[0.9, 0.99])
    write(tmp_path, "other", name="clip", optimizer__lr=0.002)
    assert labels(tmp_path) == {
        "a": "lr=0.001, objective.igc=0.1, optimizer.betas=[0.9, 0.98], max_steps=200",
        "b/c/d": "lr=0.001, objective.igc=0.1, optimizer.betas=[0.9, 0.98], max_steps=200",
        "e": "lr=0.00025, objective.igc=1, optimizer.betas=[0.9, 0.98], max_steps=200",
        "f": "lr=0.001, objective.igc=0.1, optimizer.betas=[0.9, 0.99], max_steps=600",
        "other": "lr=0.002",
    }
    assert {run.name: (run.method, run.seed) for run in find_runs(tmp_path)}["b/c/d"] == ("degla", 1)


def test_a_term_that_only_some_runs_have_is_part_of_the_setting(tmp_path):
    write(tmp_path, "a")
    write(tmp_path, "b", objective__terms__tgc={"_target_": "degla.losses.TGC", "weight": 0.1})
    write(tmp_path, "c", objective__terms__tgc={"_target_": "degla.losses.TGC", "weight": 0.0}, seed=1)
    found = labels(tmp_path)
    assert found["a"] == found["c"] == "lr=0.001"  # a term of weight 0 is no term
    assert found["b"].startswith("lr=0.001, ") and "objective.tgc=0.1" in found["b"]


@pytest.mark.parametrize(
    ("finished", "minutes", "steps"),
    [('{"steps": 200}', 2.5, 200), ('{"steps": 7, "seconds": 90.0}', 1.5, 7), ("", 2.5, None), ("[]", 2.5, None)],
)
def test_minutes_and_steps(tmp_path, finished, minutes, steps):
    write(tmp_path, "a", finished=finished)
    (run,) = find_runs(tmp_path)
    assert (run.minutes, run.steps, run.commit) == (minutes, steps, "")


def test_a_copy_without_times_has_no_minutes(tmp_path):
    run = write(tmp_path, "a")
    os.utime(run / "config.yaml")
    assert find_runs(tmp_path)[0].minutes is None


def test_unfinished_runs_are_left_out_with_a_warning(tmp_path, caplog):
    write(tmp_path, "a")
    stopped = write(tmp_path, "b", seed=1)
    (stopped / "finished.json").unlink()
    (stopped / ".lock").touch()
    assert [run.name for run in find_runs(tmp_path)] == ["a"]
    assert f"1 runs have not finished and are left out, such as {stopped}" in caplog.text
    assert find_runs(tmp_path / "nowhere") == []


def test_equal_seeds_and_other_folders_are_refused(tmp_path):
    first = write(tmp_path, "a")
    write(tmp_path, "b")
    with pytest.raises(ConfigError, match="have the same method, setting and seed"):
        find_runs(tmp_path)
    for text, reason in (("- a list", "is not the config|cannot be read"), ("{name: x}", "is not the config of a run"),
                         ("a: [", "cannot be read"), ("\0", "cannot be read")):  # fmt: skip
        (first / "config.yaml").write_text(text)
        with pytest.raises(ConfigError, match=reason) as refused:
            find_runs(tmp_path)
        assert "\n" not in str(refused.value)


def test_a_run_without_weights_is_refused(tmp_path):
    run = write(tmp_path, "a")
    (run / "model/open_clip_model.safetensors").unlink()
    with pytest.raises(ConfigError, match="has neither"):
        find_runs(tmp_path)


def test_different_bases_are_refused_unless_one_is_given(tmp_path, caplog):
    write(tmp_path, "a")
    write(tmp_path, "b", name="clip", model__unlocked_image_groups=0)
    runs = find_runs(tmp_path)
    assert base_of(runs, "runs=x") == {"name": "degla-scenes", "pretrained": "plain_clip"}
    write(tmp_path, "c", name="other", model__pretrained="else")
    with pytest.raises(ConfigError, match=r"runs=x holds runs .*: a has model\.pretrained=plain_clip, c has"):
        base_of(find_runs(tmp_path), "runs=x")
    given = {"_target_": "y", "name": "tiny", "pretrained": "z", "grad_checkpointing": False}
    assert base_of(find_runs(tmp_path), "runs=x", given) == {"name": "tiny", "pretrained": "z"}
    assert "started from different models" in caplog.text
