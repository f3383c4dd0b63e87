"""With a small /dev/shm, as in Docker, a run uses fewer workers and warns, instead of hanging or being killed."""

import shutil
import subprocess
import sys

import pytest

from degla.artifacts import read_metrics
from tests.conftest import TINY, only_run

pytestmark = pytest.mark.slow


def in_small_shared_memory(*arguments, cwd, kilobytes):
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    mount = f"mount -t tmpfs -o size={kilobytes}k tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("a mount namespace needs privileges")
    command = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$0" -m degla.train "$@"', sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(("kilobytes", "workers"), [(1000, 1), (100, 0)])
def test_fewer_workers_where_batches_do_not_fit(photo_folder, tmp_path, kilobytes, workers):
    """A batch of 16 images of 64 x 64 pixels takes about 200 kB, three of which a worker holds."""
    arguments = [*TINY, f"data.path={photo_folder}", "loader.global_batch_size=16", "loader.num_workers=3"]
    more = ["trainer.max_steps=3", "callbacks.export=null", "callbacks.watchdog.timeout_seconds=60"]
    result = in_small_shared_memory(*arguments, *more, cwd=tmp_path, kilobytes=kilobytes)
    assert result.returncode == 0, result.stderr[-3000:]
    output = (result.stdout + result.stderr).replace("\n", " ")
    assert f"using loader.num_workers={workers}" in output and "--shm-size" in output
    assert len(read_metrics(only_run(tmp_path) / "metrics.csv")["train/loss"]) == 3
