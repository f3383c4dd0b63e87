"""The study as a user runs it: measured, resumed and drawn again; and a sweep that is killed and resumed before it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from degla.artifacts import read_metrics
from tests.conftest import degla
from tests.helpers.study import write_base, write_run

SUBSETS = "[sugarcrepe/swap_att,general/colours]"
SMALL = (
    *(
        f"{split}.scenes.{setting}"
        for split in ("validation", "test")
        for setting in ("num_items=8", f"subsets={SUBSETS}")
    ),
    *("metric=sugarcrepe", "shares=[0.5,1]", "n_jobs=1", "panels=[{Which?: [clip, degla]}]"),
)


@pytest.fixture
def runs(tmp_path):
    """CLIP at one rate and DeGLA at two, with two seeds each, and a run that has not finished."""
    base = write_base(tmp_path)
    for method, lr in (("clip", 0.01), ("degla", 0.01), ("degla", 0.1)):
        for seed in (0, 1):
            write_run(tmp_path / "runs", base, method, lr, seed)
    unfinished = write_run(tmp_path / "runs", base, "degla", 0.2, 0)
    (unfinished / "finished.json").unlink()
    (unfinished / ".lock").touch()
    return tmp_path / "runs"


def study(*arguments, cwd, **options):
    return degla(*arguments, cwd=cwd, program="study", **options)


def keys(measured):
    """(Run, share, split) of each score."""
    return {(run, share, split) for run, _, share, _, split, _ in map(json.loads, measured)}


def test_a_study_is_measured_drawn_again_and_resumed(runs, tmp_path):
    output = study("runs=runs", *SMALL, cwd=tmp_path)
    text = " ".join((output.stdout + output.stderr).split())
    assert "sugarcrepe at fixed general" in text and "1 runs have not finished and are left out" in text
    record = json.loads((runs / "study.json").read_text())
    assert record["format"] == 2 and len(record["runs"]) == 6 and str(tmp_path) not in json.dumps(record["runs"])
    assert set(record["chosen"]) == {"clip", "degla"} and record["subtasks"] == [
        "sugarcrepe/swap_att",
        "general/colours",
    ]
    for one in record["runs"]:
        assert one["setting"] == {"lr": float(one["run"].split("lr")[1].split("_")[0])}  # not the number of workers
        assert (one["minutes"], one["steps"]) == (1.5, 12)
        assert [point["share"] for point in one["validation"]] == [0.5, 1.0]
    measured = json.loads((runs / "measured.json").read_text())
    tested = {(one["run"], point["share"], "test") for one in record["runs"] for point in one["test"]}
    validated = {(one["run"], share, "validation") for one in record["runs"] for share in (0.5, 1.0)}
    assert keys(measured) == tested | validated | {("base model", 0.0, split) for split in ("validation", "test")}

    study(f"replot={runs / 'study.json'}", "out=drawn", cwd=tmp_path)
    for name in ("study.md", "study.html", "fronts.png", "subtasks.png"):
        assert (tmp_path / "drawn" / name).read_bytes() == (runs / name).read_bytes()
    assert not (tmp_path / "drawn/study.json").exists()

    # A study that was stopped lacks scores, and one run is trained anew.
    kept = dict(list(measured.items())[:6])
    (runs / "measured.json").write_text(json.dumps(kept))
    shutil.copy(runs / "degla/lr0.01_seed0/model/open_clip_model.safetensors", runs / "degla/lr0.1_seed0/model")
    study("runs=runs", *SMALL, cwd=tmp_path)
    resumed = json.loads((runs / "measured.json").read_text())
    unchanged = {key: scores for key, scores in measured.items() if "degla/lr0.1_seed0" not in key}
    assert {key: resumed[key] for key in unchanged if key in resumed} == {
        key: scores for key, scores in unchanged.items() if key in resumed
    }
    assert resumed.items() >= kept.items() and keys(resumed) >= validated
    new = json.loads((runs / "study.json").read_text())["runs"]
    points = {one["run"]: [point["scores"] for point in one["validation"]] for one in new}
    assert points["degla/lr0.1_seed0"] == points["degla/lr0.01_seed0"] != points["degla/lr0.1_seed1"]


def test_what_cannot_be_measured_is_refused_in_one_line(tmp_path):
    result = study(cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert result.stderr.strip().endswith("holds no finished run: first run python -m degla.train +sweep=study")
    run = write_run(tmp_path / "runs", write_base(tmp_path), "degla", 0.1, 0)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["pretrained"] = None
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    result = study("runs=runs", *SMALL, cwd=tmp_path, check=False)
    assert result.returncode == 2 and "started from random weights" in result.stderr.splitlines()[-1]


SWEEP = (
    *("-m", "+sweep=study", "experiment=study/clip,study/degla", "optimizer.lr=1e-3", "seed=0,1,2"),
    *("data.num_scenes=60", "loader.global_batch_size=8", "trainer.max_steps=6", "scheduler.warmup_steps=1"),
    *("callbacks.checkpoint.every_n_steps=3", "callbacks.memory=null", "logger.tensorboard=null"),
    *("benchmark.scenes.num_items=8", f"benchmark.scenes.subsets={SUBSETS}"),
)


def finished(cwd):
    return {path: path.stat().st_mtime_ns for path in cwd.glob("runs/study/*/*/finished.json")}


@pytest.mark.slow
def test_study_killed_resumed_and_measured(tmp_path):
    sweep = [*SWEEP, f"model.pretrained={write_base(tmp_path)}"]
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen([sys.executable, "-m", "degla.train", *sweep], cwd=tmp_path, stdout=log, stderr=log,
                               start_new_session=True)  # fmt: skip
        deadline = time.monotonic() + 300
        while not finished(tmp_path) and time.monotonic() < deadline and job.poll() is None:
            time.sleep(0.05)
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    time.sleep(1)
    done = finished(tmp_path)
    assert 1 <= len(done) < 6, (tmp_path / "log").read_text()[-3000:]

    output = degla(*sweep, cwd=tmp_path)
    after = finished(tmp_path)
    assert len(after) == 6 and after.items() >= done.items()  # no run was repeated
    assert (output.stdout + output.stderr).count("has finished already") <= len(done)
    for path in after:
        assert list(read_metrics(path.parent / "metrics.csv")["eval_mean/overall"]) == [0, 6]  # before and after

    study(*SMALL, "n_jobs=2", cwd=tmp_path)
    record = json.loads((tmp_path / "runs/study/study.json").read_text())
    assert [(run["method"], run["seed"], run["setting"], run["steps"]) for run in record["runs"]] == [
        (method, seed, {"lr": 0.001}, 6) for method in ("clip", "degla") for seed in range(3)
    ]
    # A run that was resumed just before its end took no time that can be told.
    assert all(run["minutes"] is None or run["minutes"] > 0 for run in record["runs"])
    # What the study measures of a run at its end is what the run itself has measured on the validation split.
    for run in record["runs"]:
        metrics = read_metrics(tmp_path / "runs/study" / run["run"] / "metrics.csv")
        assert metrics["eval_mean/scenes/sugarcrepe"][6] == pytest.approx(run["validation"][-1]["scores"]["sugarcrepe"])
