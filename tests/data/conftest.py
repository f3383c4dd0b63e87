import datasets
import pytest


@pytest.fixture(autouse=True)
def no_naps(monkeypatch):
    """The library sleeps for five seconds whenever a stream is left, a pass or a worker ends."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.05)
