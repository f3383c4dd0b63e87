"""After a fault, a run of two ranks resumes from a complete checkpoint and ends with an undisturbed run's weights."""

import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from degla.artifacts import newest_checkpoint
from tests.conftest import degla, make_photo_folder, only_run
from tests.integration.test_resume import assert_same, children, run_arguments, state, wait_for_step

pytestmark = pytest.mark.slow


def start(cwd: Path, *arguments: str, largest_file: int | None = None, **environment: str) -> subprocess.Popen:
    def limit():
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.Popen(
        [sys.executable, "-m", "degla.train", *arguments], cwd=cwd, preexec_fn=limit, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def until(run: subprocess.Popen, cwd: Path, step: int) -> None:
    def is_running() -> bool:
        assert run.poll() is None, run.stdout.read()[-4000:]
        return True

    wait_for_step(is_running, cwd, step)


def rank_1(process: subprocess.Popen) -> int:
    (found,) = (pid for pid in children(process.pid) if b"LOCAL_RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes())
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return make_photo_folder(tmp_path_factory.mktemp("faults") / "photos", images=22)


@pytest.fixture(scope="module")
def arguments(photos) -> list[str]:
    return run_arguments(photos, 0, "strategy=ddp", "trainer.devices=2", "ckpt_path=last")


@pytest.fixture(scope="module")
def undisturbed(arguments, tmp_path_factory) -> dict:
    cwd = tmp_path_factory.mktemp("undisturbed")
    degla(*arguments, cwd=cwd)
    return state(cwd)


def test_one_fault_after_another(undisturbed, arguments, tmp_path):
    # SIGTERM to the second rank alone: both stop after the same batch, and the first saves.
    run = start(tmp_path, *arguments)
    until(run, tmp_path, 12)
    os.kill(rank_1(run), signal.SIGTERM)
    output = run.communicate(timeout=60)[0]
    assert run.returncode == 143 and "stopped by SIGTERM at step" in output
    checkpoints = only_run(tmp_path) / "checkpoints"
    saved = int(newest_checkpoint(checkpoints).stem[5:])
    assert saved % 5 or saved > 12

    # SLURM announces the end of the job's time: the run is saved and put back into the queue.
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.txt\n')
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
    path = f"{scontrol.parent}:{os.environ['PATH']}"
    run = start(tmp_path, *arguments, PATH=path, SLURM_JOB_ID="77")
    until(run, tmp_path, 25)
    run.send_signal(signal.SIGUSR1)
    run.communicate(timeout=60)
    assert run.returncode == 143 and (tmp_path / "scontrol.txt").read_text() == "requeue 77\n"

    # The second rank is killed: the first does not wait for it.
    run = start(tmp_path, *arguments)
    until(run, tmp_path, 40)
    os.kill(rank_1(run), signal.SIGKILL)
    run.communicate(timeout=60)
    assert run.returncode not in (0, 143)

    # The newest checkpoint is truncated, as by a power cut; the one before it is kept for this.
    newest = newest_checkpoint(checkpoints)
    os.truncate(newest, newest.stat().st_size // 2)
    before = newest_checkpoint(checkpoints)
    assert before is not None and before < newest
    result = degla(*arguments, f"ckpt_path={newest}", "name=explicit", cwd=tmp_path, check=False)
    assert result.returncode == 2 and "it is truncated, damaged or not a checkpoint" in result.stderr

    # The disk is full when the next one is saved.
    run = start(tmp_path, *arguments, largest_file=before.stat().st_size // 2)
    output = run.communicate(timeout=120)[0].replace("\n", "")
    assert run.returncode == 2 and "cannot be written" in output and "free some space" in output
    assert newest_checkpoint(checkpoints) == before and not list(checkpoints.glob("*.part"))

    # The second rank makes no progress: the watchdog names it and ends the run.
    run = start(tmp_path, *arguments, "callbacks.watchdog.timeout_seconds=3")
    until(run, tmp_path, 60)
    stuck = rank_1(run)
    os.kill(stuck, signal.SIGSTOP)
    output = run.communicate(timeout=60)[0].replace("\n", "")
    assert run.returncode == 1 and "the others wait for rank 1 in" in output and f"process {stuck}" in output
    time.sleep(1)
    assert not Path(f"/proc/{stuck}").exists() or "Z" in Path(f"/proc/{stuck}/stat").read_text().split()[2]

    degla(*arguments, cwd=tmp_path)
    assert len(list(checkpoints.glob("step-*.ckpt"))) == 2
    assert_same(state(tmp_path), undisturbed)


def test_any_flipped_bit_is_detected_or_harmless(tmp_path):
    path = tmp_path / "step-00000010.ckpt"
    torch.save({"state_dict": {"weight": torch.randn(10)}}, path)
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 41):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        if newest_checkpoint(tmp_path):
            torch.load(path, weights_only=True)


def test_a_flipped_bit_is_detected(tmp_path):
    path = tmp_path / "step-00000010.ckpt"
    torch.save({"state_dict": {"weight": torch.randn(10_000)}}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "step-00000020.ckpt").write_bytes(content)
    assert newest_checkpoint(tmp_path) == path
