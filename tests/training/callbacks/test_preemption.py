"""Signals in every phase of a run of one process; tests/integration/test_faults.py has two processes."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from degla.artifacts import newest_checkpoint, read_metrics
from degla.training.build import build
from degla.training.callbacks import Preemption
from tests.configs.test_configs import tiny
from tests.conftest import make_photo_folder


class Send(Callback):
    """Sends the process a signal from within a hook, at one call of it."""

    def __init__(self, number: int, hook: str, call: int = 0):
        self.calls = 0
        setattr(self, hook, lambda *args: self.send(number, call))

    def send(self, number: int, call: int) -> None:
        if self.calls == call:
            os.kill(os.getpid(), number)
        self.calls += 1


@pytest.fixture
def run(tmp_path):
    """Return a function that runs six steps, with validation and a benchmark every two, and sends itself a signal."""
    photos = make_photo_folder(tmp_path / "photos")
    settings = [
        "trainer.max_steps=6",
        "trainer.val_check_interval=2",
        "benchmark=scenes",
        "loader.val_batch_size=2",
        "benchmark.scenes.num_items=2",
        "callbacks.evaluate.every_n_steps=2",
        "callbacks.export=null",
    ]

    def start(*sender, ckpt_path=None):
        run = build(tiny(photos, str(tmp_path / "run"), *settings))
        run.trainer.callbacks.insert(0, Send(*sender) if sender else Callback())
        run.trainer.fit(run.module, run.datamodule, ckpt_path=ckpt_path)
        return run.trainer.global_step

    numbers = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    handlers = {number: signal.getsignal(number) for number in numbers}
    yield start
    for number, handler in handlers.items():
        signal.signal(number, handler)


def logged(tmp_path, name):
    return list(read_metrics(tmp_path / "run/metrics.csv").get(name, {}))


@pytest.mark.parametrize(
    ("sender", "step"),
    [
        ((signal.SIGTERM, "on_sanity_check_start"), 1),
        ((signal.SIGUSR1, "on_train_start"), 1),
        ((signal.SIGUSR2, "on_train_batch_start", 2), 3),
        ((signal.SIGINT, "on_train_batch_start", 2), 3),
        ((signal.SIGHUP, "on_train_batch_start", 2), 3),
        ((signal.SIGTERM, "on_train_batch_start", 1), 2),  # the batch before a validation
        ((signal.SIGTERM, "on_validation_batch_start", 4), 3),  # within the first validation after the one at the start
    ],
    ids=str,
)
def test_a_signal_ends_the_run_after_a_batch(run, tmp_path, sender, step):
    with pytest.raises(SystemExit):
        run(*sender)
    saved = newest_checkpoint(tmp_path / "run/checkpoints")
    assert saved.stem == f"step-{step:08d}"
    assert logged(tmp_path, "val/caption_choice") == list(range(0, step + 1, 2))  # whole, or not begun
    assert run(ckpt_path=saved) == 6
    for name in ("val/caption_choice", "eval_mean/overall"):
        assert logged(tmp_path, name) == [0, 2, 4, 6], name
    lines = (tmp_path / "run/metrics.csv").read_text().splitlines()
    for name in ("eval_mean/overall", "train/loss"):
        assert len([line for line in lines if f",{name}," in line]) == len(logged(tmp_path, name))  # once each


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_train_end"])
def test_after_the_last_batch_the_run_ends_by_itself(run, tmp_path, hook):
    before = signal.getsignal(signal.SIGTERM)
    assert run(signal.SIGTERM, hook, 5 if hook == "on_train_batch_start" else 0) == 6
    assert signal.getsignal(signal.SIGTERM) == before
    assert newest_checkpoint(tmp_path / "run/checkpoints").stem == "step-00000006"
    assert logged(tmp_path, "eval_mean/overall") == [0, 2, 4, 6]


def trainer():
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(_num_ready_batches_reached=lambda: False))
    return SimpleNamespace(fit_loop=loop, global_step=1, max_steps=9, should_stop=False,
                           _signal_connector=SimpleNamespace(received_sigterm=False))  # fmt: skip


def test_a_signal_during_the_reduction_waits_for_the_next_batch(monkeypatch):
    preemption, run = Preemption(), trainer()
    preemption._group = "a group"
    monkeypatch.setattr(dist, "all_reduce", lambda *args: preemption._receive(signal.SIGTERM, None))
    for expected in (False, True):
        preemption.on_train_batch_end(run, None, None, None, 0)
        assert run._signal_connector.received_sigterm is expected


@pytest.mark.parametrize("signals", [[signal.SIGUSR1, signal.SIGTERM], [signal.SIGTERM, signal.SIGUSR2]])
def test_requeue_wins_over_stop_and_a_missing_scontrol_is_logged(monkeypatch, caplog, signals):
    preemption = Preemption()
    for number in signals:
        preemption._receive(number, None)
    preemption.on_train_batch_end(trainer(), None, None, None, 0)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", "")
    preemption.requeue(resumes=True)
    assert "scontrol requeue 7: " in caplog.text and "No such file" in caplog.text
    preemption.requeue(resumes=False)
    assert "set ckpt_path=last" in caplog.text


def test_a_second_ctrl_c_stops_at_once(capfd):
    preemption = Preemption()
    for _ in range(2):  # the second is the launcher's copy of the first
        preemption._receive(signal.SIGINT, None)
    preemption._interrupt_time -= 2
    assert "press Ctrl-C again to stop at once" in capfd.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        preemption._receive(signal.SIGINT, None)


def test_signals_that_the_process_ignores_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does
    try:
        preemption = Preemption()
        preemption.setup(trainer(), None, "fit")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        preemption.teardown(trainer(), None, "fit")
    finally:
        signal.signal(signal.SIGHUP, before)
