import datasets
import pytest


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch):
    """`datasets` sleeps for five seconds whenever a stream, a pass or a worker ends."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.05)
