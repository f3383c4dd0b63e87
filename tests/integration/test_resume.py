"""A run that was killed and resumed ends with the weights of a run that was not, to the last bit."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from degla.artifacts import newest_checkpoint
from tests.conftest import TINY, degla, make_photo_folder, only_run
from tests.helpers.forked import start_forked

pytestmark = pytest.mark.slow


def wait_for_step(is_running: Callable[[], bool], cwd: Path, step: int) -> None:
    """Wait until the run has logged ``step``, which is after the checkpoints of earlier steps."""
    deadline = time.time() + 200
    while time.time() < deadline:
        assert is_running(), f"ended before step {step}: {(cwd / 'stderr').read_text()[-4000:]}"
        for file in cwd.glob("runs/train/*/metrics.csv"):
            steps = [int(line.split(",")[0]) for line in file.read_text().splitlines()[1:] if line.count(",") == 2]
            if steps and max(steps) >= step:
                return
        time.sleep(0.02)
    raise AssertionError("the run did not get that far")


def children(pid: int) -> list[int]:
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat") if parent(path) == pid]


def parent(stat: Path) -> int | None:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:  # the process has ended
        return None


def state(cwd: Path) -> dict:
    path = newest_checkpoint(only_run(cwd) / "checkpoints")
    assert path is not None
    return torch.load(path, weights_only=True)


def assert_same(one: dict, other: dict) -> None:
    assert one["global_step"] == other["global_step"]
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    moments = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (one, other)]
    for index, entry in moments[0].items():
        assert all(torch.equal(value, moments[1][index][key]) for key, value in entry.items())


def run_arguments(photos: Path, workers: int, *more: str) -> list[str]:
    return [
        *TINY,
        f"data.path={photos}",
        "objective.igc=1",
        f"loader.num_workers={workers}",
        "loader.global_batch_size=4",
        "loader.epochs=8",
        "loader.negatives=random",
        "teacher.decay=0.9",
        "scheduler.warmup_steps=5",
        "callbacks.checkpoint.every_n_steps=5",
        "callbacks.export=null",
        *more,
    ]


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return make_photo_folder(tmp_path_factory.mktemp("resume") / "photos", images=22)


@pytest.fixture(scope="module")
def undisturbed(photos, tmp_path_factory):
    """Return the final state of a run that was not stopped: 8 passes of 11 steps."""
    cwd = tmp_path_factory.mktemp("undisturbed")
    degla(*run_arguments(photos, 0), cwd=cwd)
    return state(cwd)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["kill-9", "sigterm"])
def test_resumed_equals_undisturbed(undisturbed, photos, tmp_path, how, workers):
    arguments = run_arguments(photos, workers, "ckpt_path=last")
    for step in (13, 40):  # both in the middle of a pass
        process = start_forked(*arguments, cwd=tmp_path)
        wait_for_step(process.is_alive, tmp_path, step)
        for number in (*children(process.pid), process.pid):  # as schedulers do
            os.kill(number, how)
        process.join(60)
        assert process.exitcode == (143 if how is signal.SIGTERM else -9)
    before = newest_checkpoint(only_run(tmp_path) / "checkpoints")
    output = degla(*arguments, cwd=tmp_path).stdout
    assert f"resuming from {before}" in output.replace("\n", "") or before.name in output
    assert_same(state(tmp_path), undisturbed)


def test_a_finished_run_can_be_extended(undisturbed, photos, tmp_path):
    """A finished run continues training: with more steps, after a signal, and with more time."""
    arguments = run_arguments(photos, 0, "ckpt_path=last", "scheduler=constant")
    straight, longer = tmp_path / "straight", tmp_path / "longer"
    straight.mkdir(), longer.mkdir()
    degla(*arguments, "trainer.max_steps=60", cwd=straight)
    degla(*arguments, "trainer.max_steps=20", cwd=longer)
    assert (only_run(longer) / "finished.json").is_file()
    process = start_forked(*arguments, "trainer.max_steps=60", cwd=longer)
    wait_for_step(process.is_alive, longer, 30)
    process.terminate()
    process.join(60)
    assert process.exitcode == 143 and not (only_run(longer) / "finished.json").exists()
    degla(*arguments, "trainer.max_steps=60", cwd=longer)
    assert_same(state(longer), state(straight))
    limited = tmp_path / "limited"
    limited.mkdir()
    arguments = run_arguments(photos, 0, "ckpt_path=last")
    degla(*arguments, "trainer.max_time=00:00:00:01", cwd=limited)
    assert 0 < state(limited)["global_step"] < undisturbed["global_step"]
    assert (only_run(limited) / "report.html").is_file()
    degla(*arguments, cwd=limited)
    assert_same(state(limited), undisturbed)


def test_sigterm_inside_an_accumulation_loses_nothing(photos, tmp_path):
    arguments = run_arguments(photos, 0, "trainer.accumulate_grad_batches=3", "callbacks.checkpoint.every_n_steps=1000")
    straight = tmp_path / "straight"
    straight.mkdir()
    degla(*arguments, cwd=straight)
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    for step in (4, 9, 15):
        process = start_forked(*arguments, "ckpt_path=last", cwd=stopped)
        wait_for_step(process.is_alive, stopped, step)
        process.terminate()
        process.join(60)
        assert process.exitcode == 143
    degla(*arguments, "ckpt_path=last", cwd=stopped)
    assert_same(state(stopped), state(straight))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=["ctrl-c", "hang-up"])
def test_a_short_run_saves_when_a_person_stops_it(photos, tmp_path, number):
    """No checkpoint is due before the end; the signal goes to all processes, as a terminal sends it."""
    arguments = run_arguments(photos, 2, "callbacks.checkpoint.every_n_steps=500", "trainer.log_every_n_steps=1")
    process = start_forked(*arguments, cwd=tmp_path)
    wait_for_step(process.is_alive, tmp_path, 14)
    saved = newest_checkpoint(only_run(tmp_path) / "checkpoints")
    assert saved is not None and saved.name == "step-00000011.ckpt"  # after the first pass
    for pid in (*children(process.pid), process.pid):
        os.kill(pid, number)
    process.join(60)
    output = (tmp_path / "stdout").read_text() + (tmp_path / "stderr").read_text()
    assert process.exitcode == 128 + number and f"stopped by {number.name} at step" in output, output
    stopped = newest_checkpoint(only_run(tmp_path) / "checkpoints")
    assert stopped is not None and stopped.name > saved.name
