"""Sweeps of two-process jobs under every launcher, and an Optuna search that is killed and resumed."""

import csv
import os
import signal
import subprocess
import time

import pytest

from degla.artifacts import newest_checkpoint
from degla.cli.sweeps import storage, trial_folder, trials_left
from degla.errors import ConfigError
from tests.conftest import TINY, degla, make_photo_folder, read_csv
from tests.helpers.forked import fork_server, forked_python

pytestmark = pytest.mark.slow


def arguments(tmp_path, *more):
    photos = tmp_path / "photos"
    if not photos.exists():
        make_photo_folder(photos, images=6)
    return [*TINY, f"data.path={photos}", "loader.global_batch_size=4", "trainer.devices=2", "loader.val_fraction=0",
            "data@val_data=folder", f"val_data.path={photos}", *more]  # fmt: skip


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_one_folder_per_job_and_a_summary(tmp_path, launcher):
    degla("-m", *arguments(tmp_path, "loader.epochs=1", "optimizer.lr=1e-3,1e-4", f"hydra/launcher={launcher}"),
          *(["hydra.launcher.n_jobs=1"] if launcher == "joblib" else []), cwd=tmp_path)  # fmt: skip
    (sweep,) = (tmp_path / "runs" / "train").iterdir()
    jobs = sorted(path for path in sweep.iterdir() if path.is_dir() and path.name[0] != ".")
    assert [job.name for job in jobs] == ["0", "1"]
    for job, lr in zip(jobs, ("0.001", "0.0001"), strict=True):
        assert f"lr: {lr}" in (job / "config.yaml").read_text()
        assert newest_checkpoint(job / "checkpoints") and (job / "report.html").is_file()
    summary = read_csv(sweep / "sweep.csv")
    assert {row["optimizer.lr"]: row["folder"] for row in summary} == {"0.001": "0", "0.0001": "1"}
    assert {row["state"] for row in summary} == {"finished"} and {row["steps"] for row in summary} == {"3"}
    assert (sweep / "sweep.png").stat().st_size > 5000


def test_a_killed_optuna_search_resumes(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="docs/clusters.md says how to install it")
    search = arguments(tmp_path, "+sweep=optuna", "loader.epochs=3", "callbacks.checkpoint.every_n_steps=2")
    killed = subprocess.Popen([forked_python(), "-m", "degla.train", *search, "trials=2"], cwd=tmp_path,
                              env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    sweep = tmp_path / "runs/train/optuna"
    deadline = time.time() + 120
    while not list(sweep.glob("*/checkpoints/step-*4.ckpt")):
        assert killed.poll() is None and time.time() < deadline
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    (first,) = (path for path in sweep.iterdir() if path.is_dir())
    assert not (first / "finished.json").exists()
    result = degla(*search, "trials=2", cwd=tmp_path)
    output = result.stdout + result.stderr
    assert "trial 0 was interrupted" in output and "resuming from" in output
    rows = read_csv(sweep / "sweep.csv")
    assert len(rows) == 2 == len({row["folder"] for row in rows}) and first.name in {row["folder"] for row in rows}
    assert {row["state"] for row in rows} == {"finished"} and {row["steps"] for row in rows} == {"9"}
    with (first / "metrics.csv").open() as file:  # only steps after the last checkpoint were trained twice
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["name"] == "train/loss"]
    # A step's line is written after its checkpoint, so a kill between the two loses that line (docs/clusters.md).
    assert len(set(range(9)) - set(steps)) <= 1 and max(steps) == 8 and len(steps) <= 9 + 2
    again = degla(*search, "trials=2", cwd=tmp_path)  # every trial has finished: nothing is trained
    assert "2 jobs in" in again.stdout and len(read_csv(sweep / "sweep.csv")) == 2


def test_the_folder_of_a_trial_shows_what_varies():
    overrides = ["optimizer.lr=1e-3", "data.path=/a/b", "objective.igc=0.5"]
    params = {"optimizer.lr": "", "objective.igc": ""}
    folder = trial_folder(overrides, params)
    assert folder.startswith("lr=1e-3,igc=0.5,") and trial_folder(overrides, None) == folder.rpartition(",")[2]
    assert trial_folder([*overrides, "trials=9", "ckpt_path=last"], params) == folder
    assert trial_folder([*overrides, "loader.num_negatives=2"], params) != folder  # of another search
    assert "/" not in trial_folder([*overrides, "objective=a/b"], {"objective": ""})


def test_a_search_continues_after_a_failed_trial(tmp_path):
    """One of the two learning rates is refused."""
    settings = [argument for argument in TINY if not argument.startswith("optimizer.lr")]
    search = ["-m", "+sweep=optuna", *settings, "loader.global_batch_size=4", "loader.epochs=1", "trials=2",
              f"data.path={make_photo_folder(tmp_path / 'photos', images=6)}", "hydra/sweeper/sampler=grid",
              "hydra.sweeper.params=null", "optimizer.lr=choice(1e-3,-1)"]  # fmt: skip
    result = degla(*search, "loader.val_fraction=0.3", cwd=tmp_path)
    assert "Failed experiment" in result.stdout + result.stderr
    rows = read_csv(tmp_path / "runs/train/optuna/sweep.csv")
    assert [row["state"] for row in rows] == ["finished"] and float(rows[0]["value"]) >= 0
    nothing = degla(*search, cwd=tmp_path, check=False)
    assert nothing.returncode == 2 and "a search needs a value to maximize" in nothing.stderr


def write_the_refusal(address, path):
    try:
        trials_left(address, "mine", 5, True)
    except ConfigError as error:
        path.write_text(str(error))


def test_a_running_search_is_refused_a_second_time(tmp_path):
    address = storage(str(tmp_path))
    assert trials_left(address, "mine", 5, True) == 5
    job = fork_server.Process(target=write_the_refusal, args=(address, tmp_path / "refusal"))
    job.start()
    job.join()
    assert (tmp_path / "refusal").read_text().startswith(f"another process runs the search mine in {tmp_path}: wait")
