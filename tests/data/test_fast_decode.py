"""JPEG files decoded at reduced size: the same crop, nearly the same pixels, and the same refusals."""

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image

from degla.data.datamodule import DataModule
from degla.data.fast_decode import decode_and_transform
from degla.data.image_files import BadImage, ImageLimits
from degla.data.sources import folder
from degla.data.transforms import TrainTransform
from degla.models import load_clip


def encoded(width, height, form="JPEG", mode="RGB", **settings):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, form, **settings)
    return buffer.getvalue()


def both(data, size=64, seed=0, scale=(0.9, 1.0)):
    """Return the pixels of the whole image and of the reduced one, for the same crop."""
    transforms = [TrainTransform((size, size), scale, fast_decode=fast) for fast in (False, True)]
    return [decode_and_transform(data, None, ImageLimits(), t, random.Random(seed)).float() for t in transforms]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("settings", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("shape", [(400, 300), (333, 517), (1201, 799)])
def test_pixels_differ_a_little(mode, settings, shape):
    for seed in range(3):
        whole, reduced = both(encoded(*shape, mode=mode, **settings), seed=seed, scale=(0.5, 1.0))
        assert reduced.shape == whole.shape == (3, 64, 64)
        assert (whole - reduced).abs().mean() < 1


def test_real_photos_differ_a_little(flickr):
    paths = [path for path in sorted((flickr / "images").glob("*.jpg")) if min(Image.open(path).size) >= 360][:40]
    differences = []
    for seed, path in enumerate(paths):
        whole, reduced = both(path.read_bytes(), size=80, seed=seed)
        assert not torch.equal(whole, reduced)
        differences.append(float((whole - reduced).abs().mean()))
    assert np.mean(differences) < 2 and max(differences) < 3.5


@pytest.mark.parametrize(("width", "height", "form"), [(280, 210, "JPEG"), (900, 900, "PNG"), (40, 30, "JPEG")])
def test_other_images_are_the_same_to_the_last_bit(width, height, form):
    whole, reduced = both(encoded(width, height, form))
    assert torch.equal(whole, reduced)


def test_an_eighth_is_enough_for_a_large_photo(monkeypatch):
    drafts = []
    draft = Image.Image.draft
    cls = type(Image.open(io.BytesIO(encoded(8, 8))))
    monkeypatch.setattr(cls, "draft", lambda self, *a: drafts.append(a) or draft(self, *a))
    transform = TrainTransform((64, 64), (0.9, 1.0), fast_decode=True)
    decode_and_transform(encoded(1600, 1200), None, ImageLimits(), transform, random.Random(0))
    assert drafts == [(None, (200, 150))]


def test_damaged_files_are_named():
    transform = TrainTransform((64, 64), (0.9, 1.0), fast_decode=True)
    data = encoded(900, 700)
    for damaged, reason in ((data[:-400], "truncated"), (b"<html>", "not an image"), (b"", "empty file")):
        with pytest.raises(BadImage, match=rf"{reason}.*: x.jpg"):
            decode_and_transform(damaged, "x.jpg", ImageLimits(), transform, random.Random(0))
    with pytest.raises(BadImage, match="max_image_pixels=99"):
        decode_and_transform(data, "x.jpg", ImageLimits(max_pixels=99), transform, random.Random(0))


def test_the_key_reaches_training_only(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(4):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(encoded(400 + number, 300))
    lines = [f'{{"image": "images/{number}.jpg", "caption": "photo {number}"}}\n' for number in range(4)]
    (tmp_path / "captions.jsonl").write_text("".join(lines))
    student = load_clip("degla-tiny")
    source = folder(str(tmp_path), cache_dir=str(tmp_path / "cache"))
    batches = {}
    for fast in (False, True):
        arguments = {"global_batch_size": 4, "num_workers": 0, "epochs": 1, "val_source": source, "fast_decode": fast}
        data = DataModule(source, student.tokenizer, student.image_size, student.preprocess, **arguments)
        batches[fast] = next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))
    (train, val), (fast_train, fast_val) = batches[False], batches[True]
    assert torch.equal(val.images, fast_val.images) and not torch.equal(train.images, fast_train.images)
    assert (train.images.float() - fast_train.images.float()).abs().mean() < 1
