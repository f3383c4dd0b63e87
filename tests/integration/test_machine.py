"""Full disks, folders that cannot be written and workers that hang: one sentence with the path, and exit code 2."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from degla.cli.machine import machine_sentence
from tests.conftest import TINY, degla
from tests.helpers.forked import forked_python

EVALUATE = ("model=scenes", "benchmark=scenes", "benchmark.scenes.num_items=4", "num_workers=0", "device=cpu")
WEIGHTS = Path(__file__).parents[2] / "degla/models/pretrained/degla-scenes/plain_clip.safetensors"


def with_small_files(program, *arguments, cwd, kilobytes):
    """Run a program that may write no file above a size, which ends like a full disk."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, kilobytes * 1024))

    command = [forked_python(), "-m", f"degla.{program}", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, preexec_fn=limit)


def refused(result) -> str:
    """Return the sentence of a program that ended with exit code 2."""
    output = result.stdout + result.stderr
    assert result.returncode == 2 and "Traceback" not in output, output[-3000:]
    return result.stderr.strip().splitlines()[-1]


def test_evaluate_on_a_full_disk(tmp_path):
    result = with_small_files("evaluate", *EVALUATE, cwd=tmp_path, kilobytes=16)
    sentence = refused(result)
    assert sentence.startswith(f"error: {tmp_path}/runs/evaluate/") or sentence.startswith("error: runs/evaluate/")
    assert "cannot be written, because the disk is full: free some space, or set run_dir to another folder" in sentence
    assert "features are kept in memory only" in " ".join((result.stdout + result.stderr).split())  # the cache


def test_export_on_a_full_disk(tmp_path):
    arguments = [f"ckpt={WEIGHTS}", "model=scenes", "out=exported"]
    sentence = refused(with_small_files("export", *arguments, cwd=tmp_path, kilobytes=100))
    assert sentence.startswith("error: exported cannot be written, because the disk is full: free some space, or set")
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("program", ["train", "evaluate", "export"])
def test_a_folder_that_cannot_be_written(tmp_path, program):
    (tmp_path / "file").touch()
    arguments = {
        "train": [*TINY, "data=scenes", "data.num_scenes=8", "run_dir=file/run", "hydra.run.dir=file/run"],
        "evaluate": [*EVALUATE, "run_dir=file/run", "hydra.run.dir=file/run"],
        "export": [f"ckpt={WEIGHTS}", "model=scenes", "out=file/out"],
    }[program]
    sentence = refused(degla(*arguments, program=program, cwd=tmp_path, check=False))
    assert "file/" in sentence and "cannot be read or written (Not a directory): correct that, or set" in sentence


def test_a_read_only_file_system(tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    (tmp_path / "runs").mkdir()
    mount = f"mount -t tmpfs -o ro tmpfs {tmp_path}/runs"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("a mount namespace needs privileges")
    command = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$0" -m degla.evaluate "$@"', sys.executable, *EVALUATE]
    sentence = refused(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300))
    assert sentence.startswith("error: runs_dir=runs: runs/evaluate") and "Read-only file system" in sentence


def test_a_removed_folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run").rmdir()
    with pytest.raises(FileNotFoundError) as error:
        (tmp_path / "run" / "report.md").write_text("x")
    assert "run/report.md cannot be read or written, because its folder was removed" in machine_sentence(
        error.value, "evaluate"
    )
    with pytest.raises(FileNotFoundError) as error:  # a file that a bug of ours has forgotten keeps its traceback
        (tmp_path / "x").read_text()
    assert machine_sentence(error.value, "evaluate") == ""


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError("a"), ConnectionResetError(104, "reset"), BrokenPipeError(32, "closed")]
)
def test_other_errors_keep_their_traceback(error):
    assert machine_sentence(error, "train") == ""


_HANGING_SOURCE = """
import multiprocessing, time
from degla.data.sources import folder

def source(**settings):
    table = folder(**settings)
    table.to_sample = Hanging(table.to_sample)
    return table

class Hanging:
    def __init__(self, to_sample):
        self.to_sample = to_sample
    def __call__(self, record, number):
        if multiprocessing.parent_process() is not None:
            time.sleep(10**6)  # as a network disk that does not answer
        return self.to_sample(record, number)
"""


def test_a_worker_that_hangs_ends_the_run(photo_folder, tmp_path):
    (tmp_path / "hanging.py").write_text(_HANGING_SOURCE)
    arguments = [*TINY, f"data.path={photo_folder}", "loader.global_batch_size=4", "loader.num_workers=1"]
    arguments += ["loader.timeout_seconds=2", "data._target_=hanging.source", "callbacks.watchdog=null"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "DEGLA_TARGETS": "hanging.", "OMP_NUM_THREADS": "1"}
    command = [forked_python(), "-m", "degla.train", *arguments]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert "delivered no batch within loader.timeout_seconds: check the storage of the data" in refused(result)


def test_evaluations_name_their_own_key():
    hung = RuntimeError("DataLoader timed out after 1800.0 seconds")
    assert "set num_workers=0" in machine_sentence(hung, "evaluate")
    killed = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    assert "lower num_workers" in machine_sentence(killed, "evaluate")
    assert "lower batch_size" in machine_sentence(MemoryError(), "evaluate")
