"""A batch moves to a device, and into pinned memory, by its tensors alone."""

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch.utils.benchmark import Timer
from torch.utils.data._utils.pin_memory import pin_memory

from degla.data.batch import Batch, TextSlots
from degla.data.datamodule import DataModule
from degla.data.schema import Negative, Sample
from degla.data.sources import folder
from degla.models import load_clip

ALL = ("negatives", "units", "paraphrases", "second_captions", "negative_images", "identity")


@pytest.fixture(scope="module")
def student():
    return load_clip("degla-tiny")


@pytest.fixture
def data(student, photo_folder):
    settings = {"global_batch_size": 4, "epochs": 1, "num_workers": 0, "needs": ALL, "chunk_size": 3}
    return DataModule(folder(str(photo_folder)), student.tokenizer, student.image_size, student.preprocess, **settings)


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors(item)]
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in tensors(item)]
    return []


def test_lightning_and_torch_call_the_methods_of_a_batch(data, monkeypatch):
    batch = next(iter(data.train_dataloader()))
    moved = move_data_to_device(batch, torch.device("meta"))
    assert moved.samples is batch.samples and moved.slots is batch.slots and moved.text_numbers is batch.text_numbers
    assert len(tensors(moved)) >= 30 and all(tensor.device.type == "meta" for tensor in tensors(moved))
    assert [tuple(tensor.shape) for tensor in tensors(moved)] == [tuple(tensor.shape) for tensor in tensors(batch)]
    assert type(moved) is Batch and type(moved.chunks[0].packed) is type(batch.chunks[0].packed)
    assert type(moved.extra_texts["units"]) is TextSlots
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 0)  # a machine without GPU has none
    pinned = pin_memory(batch)
    assert pinned.samples is batch.samples and pinned.problems is batch.problems
    for one, other in zip(tensors(batch), tensors(pinned), strict=True):
        assert not one.numel() or (torch.equal(one, other) and one.data_ptr() != other.data_ptr())


def test_a_trainer_moves_batches_by_their_tensors(data, monkeypatch):
    """The samples of the step are those that the loader made, and the transfer does not wait for pinned memory."""
    made, moves = [], []
    collate = data.collate
    monkeypatch.setattr(data, "collate", lambda samples: made.append(collate(samples)) or made[-1])
    plain = Batch.to

    def record(self, device, non_blocking=False):
        moves.append((str(device), non_blocking))
        return plain(self, device, non_blocking)

    monkeypatch.setattr(Batch, "to", record)
    seen = []

    class Watch(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def training_step(self, batch, batch_idx):
            seen.append(batch)
            return self.weight * 1.0

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = L.Trainer(max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False,
                        enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(Watch(), data)
    assert len(seen) == 2 and moves == [("cpu", False)] * len(moves) and len(moves) >= 2
    for batch in seen:
        assert any(batch.samples is own.samples and batch.slots is own.slots for own in made)


def large_batch(num_samples):
    """A batch of real sizes, but for its images, which a CPU does not copy."""
    samples = [Sample(f"file:{i}", None, f"{i}.jpg", "a dog", [Negative("a cat")] * 5) for i in range(num_samples)]
    tokens = torch.zeros(num_samples, 20, dtype=torch.int64)
    return Batch(
        images=torch.zeros(num_samples, 3, 8, 8, dtype=torch.uint8),
        captions=tokens,
        negatives=tokens[:, None].expand(-1, 4, -1).contiguous(),
        negative_mask=torch.ones(num_samples, 4, dtype=torch.bool),
        samples=samples,
        slots=[sample.negatives[:4] for sample in samples],
        problems=[],
    )


def test_the_host_time_of_a_transfer_does_not_grow_with_the_samples():
    """1024 samples take about 10 us; walking through them took 64 ms."""
    names = {"move": move_data_to_device, "device": torch.device("cpu")}
    times = []
    for num_samples in (32, 1024):
        timer = Timer("move(batch, device)", globals={**names, "batch": large_batch(num_samples)})
        times.append(min(timer.timeit(50).mean for _ in range(5)))
    assert times[1] < 2e-4 and times[1] < 5 * times[0]
