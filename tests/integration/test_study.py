"""The study as a user runs it: killed, resumed, measured, and drawn again from its record."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from degla.artifacts import read_metrics
from tests.conftest import degla

SHORT = [
    "-m",
    "+sweep=study",
    "experiment=study/clip,study/degla",
    "optimizer.lr=1e-3,2e-3",
    "seed=0,1",
    "data.num_scenes=200",
    "loader.num_workers=0",
    "loader.global_batch_size=8",
    "trainer.max_steps=12",
    "callbacks.checkpoint.every_n_steps=4",
    "callbacks.progress_bar=null",
    "benchmark.scenes.num_items=4",
]


def finished(cwd):
    return {path: path.stat().st_mtime_ns for path in cwd.glob("runs/study/*/*/finished.json")}


@pytest.mark.slow
def test_study_killed_resumed_measured_and_drawn_again(tmp_path):
    command = [sys.executable, "-m", "degla.train", *SHORT]
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 300
        while len(finished(tmp_path)) < 3 and time.monotonic() < deadline and job.poll() is None:
            time.sleep(0.05)
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    time.sleep(1)
    done = finished(tmp_path)
    assert 3 <= len(done) < 8, (tmp_path / "log").read_text()[-3000:]

    output = degla(*SHORT, cwd=tmp_path)
    after = finished(tmp_path)
    assert len(after) == 8 and after.items() >= done.items()  # no run was repeated
    assert (output.stdout + output.stderr).count("has finished already") <= len(done)
    for path in after:
        assert list(read_metrics(path.parent / "metrics.csv")["eval_mean/overall"]) == [0, 12]  # before and after

    measure = [sys.executable, "-m", "degla.study", "benchmark.scenes.num_items=4", "shares=[0.5,1.0]"]
    result = subprocess.run(measure, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    out = tmp_path / "runs" / "study"
    assert "before fine-tuning" in (out / "study.md").read_text()
    record = json.loads((out / "study.json").read_text())
    assert set(record["methods"]) == {"clip", "degla"}
    for method in record["methods"].values():
        by_rate = {}
        for run in method["validation"]:
            by_rate.setdefault(run["lr"], []).append(run["overall"])
        assert method["lr"] == max(by_rate, key=lambda rate: sum(by_rate[rate]))
        chosen = [(point["seed"], point["share"]) for point in method["test"] if point["lr"] == method["lr"]]
        assert sorted(chosen) == [(0, 0.5), (0, 1.0), (1, 0.5), (1, 1.0)] and len(method["test"]) == 6
    drawn = [sys.executable, "-m", "degla.study", f"replot={out / 'study.json'}", "out=again"]
    subprocess.run(drawn, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    for name in ("study.md", "front.png", "subtasks.png"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()


def test_a_study_without_runs_is_refused(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "degla.study"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 2
    assert result.stderr.strip().endswith("holds no finished run: first run python -m degla.train +sweep=study")
