"""Random hostile input for every boundary, a minute in all; ``benchmarks/fuzz.py`` is the long form."""

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.hostile import CASES, SECONDS, answer, describe_case, mutate, mutate_value, time_limit


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_hostile_input_is_refused_reported_or_accepted(name, seed):
    with tempfile.TemporaryDirectory() as folder:
        try:
            CASES[name](Path(folder), random.Random(seed))
        except Exception as error:
            error.add_note(f"--only {name!r} --seed {seed}\n{describe_case(Path(folder))}")
            raise


def test_the_harness_finds_defects():
    """What would otherwise let every case pass."""

    def bug():
        raise KeyError("caption")

    def loop():
        while True:
            pass

    with pytest.raises(KeyError):
        answer(bug)
    with pytest.raises(AssertionError, match="more than 1 s"), time_limit(1):
        loop()
    assert SECONDS >= 10
    rng = random.Random(0)
    assert len({mutate(b"image,caption\n0.png,a dog", rng) for _ in range(50)}) > 40
    assert len({repr(mutate_value({"a": [1, {"b": "c"}]}, rng)) for _ in range(50)}) > 20
