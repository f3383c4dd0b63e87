"""Tokens mapped into memory, and the teacher's text features kept beside them."""

import multiprocessing

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from degla.data.datamodule import DataModule
from degla.data.sources import folder, huggingface
from degla.data.text_features import TextFeatures
from degla.data.tokens import TokenTable
from degla.models import load_clip


@pytest.fixture(scope="module")
def student():
    return load_clip("degla-tiny")


def loaders(source, student, **settings):
    settings = {"global_batch_size": 4, "num_workers": 0, "epochs": 1} | settings
    return DataModule(source, student.tokenizer, student.image_size, student.preprocess, **settings)


@pytest.mark.parametrize("negatives", ["first", "random", "one_per_type"])
def test_batches_are_those_of_the_tokenizer(photo_folder, student, negatives):
    data = loaders(folder(str(photo_folder)), student, negatives=negatives, num_negatives=3)
    with_table = list(data.train_dataloader())
    data.tokens = None
    assert with_table[0].text_numbers is not None
    for mapped, asked in zip(with_table, data.train_dataloader(), strict=True):
        assert torch.equal(mapped.captions, asked.captions) and torch.equal(mapped.negatives, asked.negatives)
        assert torch.equal(mapped.images, asked.images) and mapped.slots == asked.slots
        assert asked.text_numbers is None and mapped.samples == asked.samples


def test_numbers_name_texts(photo_folder, student):
    source = folder(str(photo_folder))
    table = TokenTable(source, student.tokenizer)
    rows = source.samples(range(len(source)))
    texts = [text for row in rows for text in [row.caption, *(n.text for n in row.negatives)]]
    assert table.num_texts == len(texts)
    batch = next(iter(loaders(source, student, num_negatives=7).train_dataloader()))
    for row, slots, numbers in zip(batch.samples, batch.slots, batch.text_numbers, strict=True):
        assert texts[numbers[0]] == row.caption
        assert [texts[n] if n >= 0 else None for n in numbers[1:]] == [slot and slot.text for slot in slots]


def test_texts_are_tokenized_once(photo_folder, student, monkeypatch):
    TokenTable(folder(str(photo_folder)), student.tokenizer)
    key = student.tokenizer.key()
    monkeypatch.setattr(student.tokenizer, "key", lambda: key)
    monkeypatch.setattr(student.tokenizer, "tokenize", None)  # asking it would fail
    assert TokenTable(folder(str(photo_folder)), student.tokenizer).samples([0])


def test_images_are_not_read_for_their_texts(hub_dataset, tmp_path, student):
    hub_dataset.to_parquet(tmp_path / "rows.parquet")
    source = huggingface("parquet", data_files=str(tmp_path / "rows.parquet"))
    assert source.samples([0])[0].image_bytes and source.texts([0])[0].image_bytes is None
    assert source.texts([0])[0].caption == source.samples([0])[0].caption


def test_text_features_are_shared_and_survive(tmp_path):
    features = normalize(torch.randn(3, 2, 8), dim=-1)
    numbers = np.array([[0, 1], [2, -1], [7, 4]])
    store = TextFeatures(tmp_path / "f32", 10, 8)
    assert store.read(numbers) is None
    store.write(numbers, features)
    expected = features.clone()
    expected[1, 1] = 0
    assert torch.equal(store.read(numbers), expected)
    assert store.read(np.array([[0, 3]])) is None
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # as a DataLoader worker sees it
        assert torch.equal(pool.apply(store.read, (numbers,)), expected)
    again = TextFeatures(tmp_path / "f32", 10, 8)
    assert torch.equal(again.read(numbers), expected)
    again._mapped()["vector"][0, :4] = 0  # a row of which a crash left half
    assert again.read(np.array([0])) is None
