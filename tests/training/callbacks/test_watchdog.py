"""A single process, or rank 0, whose store carries the heartbeats, makes no progress."""

import os
import signal
import threading
from datetime import timedelta
from types import SimpleNamespace

import torch.distributed as dist

from degla.training.callbacks import Watchdog
from tests.helpers.forked import fork_server


def keep_store(path):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    path.write_text(str(store.port))
    threading.Event().wait(60)


def test_a_silent_rank_0_is_detected(tmp_path, monkeypatch, caplog):
    path = tmp_path / "port"
    first = fork_server.Process(target=keep_store, args=(path,), daemon=True)
    first.start()
    while not (path.is_file() and path.read_text()):
        first.join(0.05)
    store = dist.TCPStore("127.0.0.1", int(path.read_text()), is_master=False, timeout=timedelta(minutes=5))
    ended = threading.Event()
    watchdog = Watchdog(timeout_seconds=1)
    monkeypatch.setattr(watchdog, "_end", lambda trainer: (ended.set(), watchdog._is_over.set()))
    monkeypatch.setattr("degla.training.callbacks.watchdog.default_store", lambda: store)
    watchdog.on_train_start(SimpleNamespace(world_size=2, global_rank=1), None)
    for _ in range(30):
        watchdog._mark("a batch")
        assert not ended.wait(0.05)
    os.kill(first.pid, signal.SIGSTOP)
    assert ended.wait(10) and "rank 0 does not answer" in caplog.text
    watchdog.teardown(None, None, "fit")
    first.kill()


def test_a_single_process_without_progress_is_detected(monkeypatch, caplog):
    ended = threading.Event()
    watchdog = Watchdog(timeout_seconds=1)
    monkeypatch.setattr(watchdog, "_end", lambda trainer: (ended.set(), watchdog._is_over.set()))
    watchdog.on_train_start(SimpleNamespace(world_size=1), None)
    for number in range(30):
        watchdog.on_train_batch_end(None, None, None, None, number)
        assert not ended.wait(0.05)
    assert ended.wait(10) and "the process is in loading batch 30" in caplog.text
