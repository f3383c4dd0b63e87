"""Files of a run folder: whole or absent, and readable by whoever the umask allows."""

import os
import stat

import pytest
import torch
from safetensors.torch import save_file

from degla.artifacts import apply_default_modes, atomic_write


@pytest.fixture
def group_umask():
    before = os.umask(0o027)
    yield 0o640
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_written_file_has_the_mode_of_open(tmp_path, group_umask):
    with atomic_write(tmp_path / "a.safetensors") as partial:
        save_file({"x": torch.zeros(1)}, partial)
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")  # as the library alone leaves it
    assert mode(tmp_path / "a.safetensors") == group_umask
    apply_default_modes(tmp_path)
    assert {path.name: mode(path) for path in tmp_path.iterdir()} == dict.fromkeys(
        ("a.safetensors", "b.safetensors"), group_umask
    )


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(KeyError), atomic_write(path) as partial:
        partial.write_text("half")
        raise KeyError
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]
