"""Batches that hold an image at most once, where any order of the rows has that."""

import itertools
import json
import logging
import random

import numpy as np
import pytest
from torch.utils.benchmark import Timer

from degla.data.datamodule import DataModule
from degla.data.image_rows import RowsOfImages, table_image_ids
from degla.data.sampler import RunSampler
from degla.data.sources import folder, huggingface
from degla.data.unique_images import count_repeats, spread_images
from degla.errors import ConfigError
from degla.models import load_clip


@pytest.fixture(scope="module")
def student():
    return load_clip("degla-tiny")


def draws(image_ids, batch_size, epochs=1, seed=0, drop_last=True, unique=True, **settings):
    images = image_ids if unique else None
    sampler = RunSampler(np.arange(len(image_ids)), batch_size, epochs, seed, drop_last, image_ids=images, **settings)
    return [[draw.row for draw in batch] for batch in sampler]


def repeated(batches, image_ids):
    return sum(len(set(image_ids[batch])) < len(batch) for batch in batches)


MADE_UP = np.arange(5000) // 5  # 5000 rows of 1000 images


@pytest.mark.parametrize("drop_last", [True, False])
def test_no_image_twice_in_a_batch_of_256(drop_last):
    batches = draws(MADE_UP, 256, epochs=3, drop_last=drop_last)
    size = len(batches) // 3
    assert size == (19 if drop_last else 20) and repeated(batches, MADE_UP) == 0
    for epoch in range(3):
        rows = [row for batch in batches[epoch * size :][:size] for row in batch]
        assert len(set(rows)) == len(rows) == (19 * 256 if drop_last else 5000)
    plain = draws(MADE_UP, 256, epochs=3, drop_last=drop_last, unique=False)
    assert repeated(plain, MADE_UP) == len(plain)  # what this is for: 26 pairs a batch
    assert [len(batch) for batch in plain] == [len(batch) for batch in batches]
    stayed = sum(one == other for pair in zip(plain, batches, strict=True) for one, other in zip(*pair, strict=True))
    assert stayed > 0.6 * sum(map(len, plain))  # the order is that of the seed, but for the exchanges


def test_no_image_of_flickr8k_twice_in_a_batch_of_256(flickr, student):
    """5000 rows of 1000 images, all captions of an image in sequence."""
    source = folder(str(flickr), "negatives.jsonl")
    ids = table_image_ids(source)
    assert len(ids) == 5000 and len(set(ids)) == 1000
    data = DataModule(source, student.tokenizer, (64, 64), student.preprocess, epochs=2, unique_images=True)
    batches = [[draw.row for draw in batch] for batch in data._sampler()]
    assert len(batches) == 38 and repeated(batches, ids) == 0


def test_the_order_depends_on_seed_and_epoch_only():
    whole = draws(MADE_UP, 64, epochs=2, seed=5)
    assert whole == draws(MADE_UP, 64, epochs=2, seed=5) != draws(MADE_UP, 64, epochs=2, seed=6)
    assert whole[:78] != whole[78:]
    for start in (0, 1, 77, 78, 155):
        assert draws(MADE_UP, 64, epochs=2, seed=5, start=start) == whole[start:]
    for world_size in (2, 3):
        ranks = [draws(MADE_UP, 64, epochs=2, seed=5, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert [[row for part in parts for row in part] for parts in zip(*ranks, strict=True)] == whole


def is_possible(counts, sizes, num_rows):
    """Whether some order has no image twice in a batch; Gale and Ryser's condition for full batches."""
    counts = np.array(counts)
    if num_rows > sum(sizes):  # the rows that are left out may be any
        return np.maximum(counts - len(sizes), 0).sum() <= num_rows - sum(sizes)
    largest = sorted(sizes, reverse=True)
    return all(sum(largest[:k]) <= np.minimum(counts, k).sum() for k in range(1, len(sizes) + 1))


def test_it_succeeds_wherever_any_order_does():
    """Small random sets of rows, of which half allow no order at all; each row stays exactly once in the pass."""
    possible = 0
    for number in range(1500):
        rng = random.Random(number)
        counts = [rng.randint(1, 6) for _ in range(rng.randint(1, 8))]
        image_ids = np.repeat(np.arange(len(counts)), counts)
        size, rows = rng.randint(1, 8), len(image_ids)
        sizes = [size] * (rows // size)
        if rng.random() < 0.5 and rows % size:
            sizes.append(rows % size)
        if not sizes:
            continue
        order = np.random.default_rng(number).permutation(rows)
        found = spread_images(order, image_ids[order], sizes, np.random.default_rng(number))
        assert sorted(found) == list(range(rows))
        expected = bool(is_possible(counts, sizes, rows))
        assert (count_repeats(image_ids[found], sizes) == 0) == expected, (counts, sizes)
        possible += expected
    assert 400 < possible < 1100


def test_an_image_with_too_many_rows_is_spread_evenly():
    image_ids = np.concatenate([np.zeros(30, dtype=int), np.arange(1, 71)])  # 30 rows of one image, 10 batches
    batches = draws(image_ids, 10)
    assert [int((image_ids[batch] == 0).sum()) for batch in batches] == [3] * 10
    assert sorted(itertools.chain(*batches)) == list(range(100))


def test_rows_that_are_left_out_are_those_of_the_image_with_too_many():
    image_ids = np.concatenate([np.zeros(15, dtype=int), np.arange(1, 91)])  # 105 rows, batches of 10
    batches = draws(image_ids, 10)
    assert len(batches) == 10 and repeated(batches, image_ids) == 0


def photos(student, photo_folder, **settings):
    settings = {"global_batch_size": 12, "epochs": 2, "num_workers": 0, "unique_images": True} | settings
    return DataModule(folder(str(photo_folder)), student.tokenizer, (64, 64), student.preprocess, **settings)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_a_data_module(student, photo_folder, caplog, workers):
    """12 images of two rows each: every batch of 12 holds each image once."""
    for batch in photos(student, photo_folder, num_workers=workers, needs=("negatives", "identity")).train_dataloader():
        assert len(set(batch.image_ids.tolist())) == 12
    assert "unique_images" not in caplog.text


def test_what_cannot_be_is_said_once(student, photo_folder, caplog):
    with caplog.at_level(logging.WARNING):
        data = photos(student, photo_folder, global_batch_size=24)
        list(data.train_dataloader())
        data.num_batches(2)
    messages = [record.getMessage() for record in caplog.records if "unique_images" in record.getMessage()]
    assert len(messages) == 1 and messages[0].startswith("loader.unique_images: 1 of 1 batches of a pass hold an image")


def test_a_stream_has_no_rows_to_choose_from(student, hub_dataset, tmp_path):
    hub_dataset.to_parquet(tmp_path / "t.parquet")
    stream = huggingface("parquet", data_files=str(tmp_path / "t.parquet"), streaming=True)
    with pytest.raises(ConfigError, match=r"loader.unique_images needs samples by row number"):
        DataModule(stream, student.tokenizer, (64, 64), student.preprocess, unique_images=True)


def test_images_in_bytes_are_told_apart_by_their_content(hub_dataset, tmp_path, monkeypatch):
    hub_dataset.to_parquet(tmp_path / "t.parquet")
    keys = {"data_files": str(tmp_path / "t.parquet"), "cache_dir": str(tmp_path / "cache")}
    ids = table_image_ids(huggingface("parquet", **keys))
    assert len(set(ids)) == 12 and (ids[::2] == ids[1::2]).all()
    source = huggingface("parquet", **keys)
    monkeypatch.setattr(type(source), "image_keys", None)  # reading the images again would fail
    assert table_image_ids(source).tolist() == ids.tolist()


def test_rows_of_an_image(photo_folder):
    lines = (photo_folder / "captions.jsonl").read_text().splitlines()
    one_more = {**json.loads(lines[0]), "caption": "one more"}
    (photo_folder / "captions.jsonl").write_text("\n".join([*lines, json.dumps(one_more)]))
    ids = table_image_ids(folder(str(photo_folder)))
    rows = RowsOfImages(ids, np.arange(25))
    assert rows.others(0) == [1, 24] and rows.others(24) == [0, 1] and rows.others(7) == [6] and rows.has_several()
    training = RowsOfImages(ids, np.array([0, 3, 4, 24]))
    assert training.others(0) == [24] and training.others(3) == []
    assert not RowsOfImages(ids, np.arange(0, 24, 2)).has_several()


def test_a_large_pass_is_arranged_quickly():
    """590,000 rows of 118,000 images, as COCO has, take about 0.3 s once a pass; 5 s here, for a busy machine."""
    image_ids = np.arange(590_000) // 5
    sampler = RunSampler(np.arange(590_000), 256, 1, 0, image_ids=image_ids)
    elapsed = Timer("sampler.count_repeats()", globals={"sampler": sampler}).timeit(1).mean
    assert sampler.count_repeats() == 0 and elapsed < 5
