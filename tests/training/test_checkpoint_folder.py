"""A run whose checkpoint folder disappears ends with one sentence and creates no second folder."""

import shutil
import time

import pytest

from tests.conftest import TINY
from tests.helpers.forked import start_forked


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_moved_folder_ends_the_run(photo_folder, tmp_path, asynchronous):
    run_dir = tmp_path / "run"
    arguments = [*TINY, f"data.path={photo_folder}", "loader.global_batch_size=4", "loader.num_negatives=1"]
    arguments += ["loader.epochs=200", "callbacks.checkpoint.every_n_steps=2", "callbacks.evaluate=null"]
    arguments += [f"callbacks.checkpoint.asynchronous={str(asynchronous).lower()}"]
    job = start_forked(*arguments, f"run_dir={run_dir}", cwd=tmp_path)
    deadline = time.time() + 120
    while not list(run_dir.glob("checkpoints/step-*.ckpt")) and time.time() < deadline:
        time.sleep(0.05)
    shutil.move(run_dir / "checkpoints", tmp_path / "moved")
    job.join(timeout=120)
    assert job.exitcode == 2, (tmp_path / "stderr").read_text()[-2000:]
    assert "was moved or removed while the run was writing to it" in (tmp_path / "stderr").read_text()
    assert not (run_dir / "checkpoints").exists() and list((tmp_path / "moved").glob("step-*.ckpt"))
