"""Checkpoints that a thread writes: what is in them, when they are waited for, and where their errors appear."""

import threading
import time
from collections import OrderedDict

import pytest
import torch

from degla.errors import CheckpointError
from degla.training.checkpoint_writer import CheckpointWriter, copy_to_host, host_copies, wait_for_checkpoint


def content():
    memory = torch.arange(12.0)
    weights = OrderedDict(a=memory[:6].view(2, 3), b=memory[6:], tied=memory[:6].view(2, 3))
    weights._metadata = {"": {"version": 1}}
    moments = {0: {"step": torch.tensor(3), "exp_avg": torch.ones(4, 2).t()}}
    return {"state_dict": weights, "optimizer_states": [{"state": moments}], "loops": {"count": [1, (2, "x")]}}


def assert_equal(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other) and one.stride() == other.stride()
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_equal(value, other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_equal(left, right)
    else:
        assert one == other


def test_the_copy_is_equal_and_does_not_change_with_the_original(tmp_path):
    original = content()
    copied = copy_to_host(original)
    torch.save(original, tmp_path / "1.ckpt")
    torch.save(copied, tmp_path / "2.ckpt")
    original["state_dict"]["a"] += 1
    original["loops"]["count"].append(3)
    assert_equal(copied, content())
    assert copied["state_dict"]._metadata == {"": {"version": 1}}
    assert copied["state_dict"]["a"].data_ptr() == copied["state_dict"]["tied"].data_ptr()
    # Twelve numbers once, not the six of each tensor again.
    assert (tmp_path / "2.ckpt").stat().st_size == (tmp_path / "1.ckpt").stat().st_size
    assert_equal(torch.load(tmp_path / "2.ckpt", weights_only=True), content())


def test_copies_of_a_device_keep_strides_types_and_shared_memory():
    memory = torch.arange(24, dtype=torch.bfloat16).view(4, 6)
    tensors = [memory.t(), memory[1:3, ::2], torch.tensor(True), torch.empty(0), torch.ones(2).expand(3, 2)]
    copies = host_copies(tensors)
    for tensor, copied in zip(tensors, copies, strict=True):
        assert copied.dtype == tensor.dtype and copied.stride() == tensor.stride() and torch.equal(copied, tensor)
    assert copies[0].untyped_storage().data_ptr() == copies[1].untyped_storage().data_ptr()
    assert copies[0].untyped_storage().data_ptr() != memory.untyped_storage().data_ptr()


class SlowDisk:
    """Stands between a checkpoint that is on the disk and the next one, until it is released."""

    def __init__(self):
        self.released = threading.Event()
        self.written = []

    def __call__(self, path):
        assert path.is_file()
        self.written.append(path.name)
        assert self.released.wait(30)


def test_a_save_returns_at_once_and_the_next_one_waits(tmp_path):
    disk = SlowDisk()
    writer = CheckpointWriter(asynchronous=True, when_written=disk)
    state = {"weight": torch.zeros(3)}
    writer.save_checkpoint(state, tmp_path / "step-1.ckpt")
    state["weight"] += 1  # the next step
    second = threading.Thread(target=writer.save_checkpoint, args=(state, tmp_path / "step-2.ckpt"))
    second.start()
    time.sleep(0.2)
    assert second.is_alive() and not (tmp_path / "step-2.ckpt").exists()
    disk.released.set()
    second.join()
    wait_for_checkpoint(writer)
    assert disk.written == ["step-1.ckpt", "step-2.ckpt"]
    assert torch.load(tmp_path / "step-1.ckpt")["weight"].tolist() == [0, 0, 0]
    assert torch.load(tmp_path / "step-2.ckpt")["weight"].tolist() == [1, 1, 1]


def test_in_the_foreground_a_save_ends_with_the_file_on_the_disk(tmp_path):
    names = []
    writer = CheckpointWriter(asynchronous=True, when_written=lambda path: names.append(path.name))
    with writer.in_foreground():
        writer.save_checkpoint({}, tmp_path / "step-1.ckpt")
        assert names == ["step-1.ckpt"]
    assert writer.asynchronous


def test_an_error_of_the_thread_is_raised_once_at_the_next_step(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    writer = CheckpointWriter(asynchronous=True, when_written=lambda path: None)
    (folder / "step-1.ckpt").mkdir()  # the file cannot be moved there
    writer.save_checkpoint({}, folder / "step-1.ckpt")
    deadline = time.time() + 30
    with pytest.raises(CheckpointError, match=r"step-1.ckpt cannot be written .*free some space; there is no earlier"):
        while time.time() < deadline:
            writer.raise_error()
            time.sleep(0.01)
    writer.raise_error()
    writer.wait()
    assert not list(folder.glob("*.part"))


def test_an_error_of_the_thread_is_raised_before_the_next_save(tmp_path):
    writer = CheckpointWriter(asynchronous=True, when_written=lambda path: None)
    (tmp_path / "step-1.ckpt").mkdir()
    writer.save_checkpoint({}, tmp_path / "step-1.ckpt")
    with pytest.raises(CheckpointError, match=r"step-1.ckpt cannot be written"):
        writer.save_checkpoint({}, tmp_path / "step-2.ckpt")
    assert not (tmp_path / "step-2.ckpt").exists()


def test_a_missing_folder_is_named_before_anything_is_copied(tmp_path):
    writer = CheckpointWriter(asynchronous=True, when_written=lambda path: None)
    with pytest.raises(CheckpointError, match="was moved or removed"):
        writer.save_checkpoint({}, tmp_path / "none" / "step-1.ckpt")
