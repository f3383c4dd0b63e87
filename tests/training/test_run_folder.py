"""Run folders: unique names within one second, and one process at a time in each."""

import multiprocessing
import time

import pytest

from degla.cli.paths import run_folder
from degla.errors import ConfigError
from degla.training.run_folder import lock_run_folder
from tests.helpers.forked import fork_server


def test_runs_of_the_same_second_have_different_folders(tmp_path):
    folders = [run_folder(str(tmp_path), "train", None) for _ in range(5)]
    assert len(set(folders)) == 5


def test_a_folder_that_cannot_be_created_is_one_sentence(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ConfigError, match=r"runs_dir=.*cannot be created \(Not a directory\)"):
        run_folder(str(tmp_path / "runs"), "train", None)


def hold(folder, is_held, may_end):
    with lock_run_folder(folder, is_first_rank=True):
        is_held.set()
        may_end.wait(60)


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path):
    is_held, may_end = (fork_server.Event() for _ in range(2))
    first = fork_server.Process(target=hold, args=(tmp_path, is_held, may_end), daemon=True)
    first.start()
    assert is_held.wait(60)
    with pytest.raises(ConfigError, match=rf"is in use by process {first.pid} on "), lock_run_folder(tmp_path, True):
        pass
    with lock_run_folder(tmp_path, is_first_rank=False):  # another rank of the first run
        pass
    first.kill()
    first.join(60)
    with lock_run_folder(tmp_path, is_first_rank=True):
        pass


def test_workers_that_outlive_a_killed_run_do_not_hold_the_lock(tmp_path):
    with lock_run_folder(tmp_path, is_first_rank=True):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
        worker.start()
    is_held, may_end = (fork_server.Event() for _ in range(2))
    other = fork_server.Process(target=hold, args=(tmp_path, is_held, may_end))
    may_end.set()
    other.start()
    other.join(60)
    assert worker.is_alive() and other.exitcode == 0
    worker.kill()
