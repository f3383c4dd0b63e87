"""Hugging Face data sets as people publish them: read, or refused with the key to set."""

import csv
import io
import json
import socket
from collections import Counter

import datasets
import pytest
import torch
from PIL import Image

from degla.data.collate import Collate, Draw
from degla.data.datamodule import DataModule
from degla.data.schema import Negative
from degla.data.sources import SampleStream, huggingface
from degla.data.tokens import TokenTable
from degla.data.transforms import TrainTransform
from degla.errors import ConfigError
from degla.models import load_clip

CAPTIONS = [[f"photo {i} said {j}" for j in range(1 + i % 3)] for i in range(12)]


def photo(number):
    buffer = io.BytesIO()
    Image.new("RGB", (70, 70), (number * 20, 9, 9)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def publish(root, **columns):
    """A data set of twelve images as Parquet; returns the keys that read it."""
    table = {"image": [photo(i) for i in range(12)], "caption": [c[0] for c in CAPTIONS], "negatives": [["no"]] * 12}
    table |= columns
    dataset = datasets.Dataset.from_dict({name: values for name, values in table.items() if values is not None})
    dataset.cast_column("image", datasets.Image()).to_parquet(root / "t.parquet")
    return {"path": "parquet", "data_files": str(root / "t.parquet"), "cache_dir": str(root / "cache")}


@pytest.fixture(scope="module")
def student():
    return load_clip("degla-tiny")


def batches(source, student, **settings):
    settings = {"global_batch_size": 4, "epochs": 4, "num_workers": 0} | settings
    return DataModule(source, student.tokenizer, student.image_size, student.preprocess, **settings)


@pytest.mark.parametrize("captions", ["first", "random"])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_list_of_captions_gives_one_a_step(tmp_path, student, captions, streaming):
    source = huggingface(**publish(tmp_path, caption=CAPTIONS), captions=captions, streaming=streaming)
    samples = list(source.samples(0, 0)) if streaming else source.samples(range(12))
    assert sorted(len(sample.captions) or 1 for sample in samples) == [1] * 4 + [2] * 4 + [3] * 4
    collate = Collate(TrainTransform((64, 64), (0.9, 1.0)), student.tokenizer, 1, "first", captions=source.captions)
    drawn = Counter()
    for step in range(60):
        batch = collate([(sample, Draw(i, f"{step}-{i}")) for i, sample in enumerate(samples)])
        drawn.update(sample.caption for sample in batch.samples)
    every = {caption for several in CAPTIONS for caption in several}
    assert set(drawn) == ({several[0] for several in CAPTIONS} if captions == "first" else every)
    if captions == "random":
        assert all(8 < drawn[caption] < 35 for caption in CAPTIONS[2])  # 20 of 60 each


def test_the_caption_of_a_step_does_not_depend_on_where_a_run_began(tmp_path, student):
    data = batches(huggingface(**publish(tmp_path, caption=CAPTIONS), captions="random"), student)
    whole = [[sample.caption for sample in batch.samples] for batch in data.train_dataloader()]
    sampler = data._sampler(start=5)
    resumed = data._loader(data.train_dataloader().dataset, batch_sampler=sampler)
    assert [[sample.caption for sample in batch.samples] for batch in resumed] == whole[5:]
    assert len({caption for batch in whole for caption in batch}) > 12


def test_tokens_are_those_of_the_caption_that_was_drawn(tmp_path, student):
    data = batches(huggingface(**publish(tmp_path, caption=CAPTIONS), captions="random"), student, num_negatives=1)
    with_table = list(data.train_dataloader())
    data.tokens = None
    for mapped, asked in zip(with_table, data.train_dataloader(), strict=True):
        assert mapped.samples == asked.samples and torch.equal(mapped.captions, asked.captions)
        assert torch.equal(mapped.negatives, asked.negatives)
        assert len(set(mapped.text_numbers.flatten().tolist())) == mapped.text_numbers.size


def test_validation_has_every_caption(tmp_path, student):
    table = huggingface(**publish(tmp_path, caption=CAPTIONS))
    data = batches(table, student, val_source=table)
    samples = [sample for batch in data.val_dataloader() for sample in batch.samples]
    assert sorted(sample.caption for sample in samples) == sorted(c for several in CAPTIONS for c in several)
    assert len({sample.image_path for sample in samples}) == 12


def test_tokens_of_another_column_are_not_taken_from_the_cache(tmp_path, student):
    keys = publish(tmp_path, other=[f"other {i}" for i in range(12)])
    first, second = (TokenTable(huggingface(**keys, caption=name), student.tokenizer) for name in ("caption", "other"))
    assert first.samples([3]) != second.samples([3])


COLUMNS = {
    "a list of texts": ([["a", "b"]] * 12, [Negative("a"), Negative("b")]),
    "one text": (["a cat"] * 12, [Negative("a cat")]),
    "a JSON list": (['["a", "b"]'] * 12, [Negative("a"), Negative("b")]),
    "a Python list": (["['a', \"b's\"]"] * 12, [Negative("a"), Negative("b's")]),
    "JSON objects": (['[{"text": "a", "type": "x"}]'] * 12, [Negative("a", "x")]),
    "a struct of lists": ([{"text": ["a", "b"], "type": ["x", "y"]}] * 12, [Negative("a", "x"), Negative("b", "y")]),
    "a list of structs": ([[{"text": "a", "type": "x"}]] * 12, [Negative("a", "x")]),
    "nothing": ([None] * 12, []),
    "empty texts": ([""] * 12, []),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_negatives_in_every_shape(tmp_path, kind):
    values, expected = COLUMNS[kind]
    sample = huggingface(**publish(tmp_path, negatives=values)).samples([0])[0]
    assert not sample.problem and sample.negatives == expected


def test_damaged_json_is_a_problem_and_not_a_negative(tmp_path):
    sample = huggingface(**publish(tmp_path, negatives=['["a", "b'] * 12)).samples([0])[0]
    assert "negatives are not a JSON list" in sample.problem


REFUSED = {
    "negatives under another name": (
        {"negatives": None, "negative_caption": ["a"] * 12},
        {},
        r"data.negatives=negatives is not a column of parquet: set data.negatives to negative_caption",
    ),
    "no negatives": ({"negatives": None}, {}, "or to null if there are no negatives"),
    "captions are objects": (
        {"caption": [[{"raw": "a", "id": 1}]] * 12},
        {},
        r"holds objects with the keys raw, id: set data.caption=caption.raw",
    ),
    "captions are numbers": ({"caption": list(range(12))}, {}, r"holds int64, not text: set data.caption to one of"),
    "negatives are numbers": (
        {"negatives": [[1, 2]] * 12},
        {},
        r"data.negatives=negatives .* lists of int64, not text",
    ),
    "negatives without a text": (
        {"negatives": [[{"caption": "a", "score": 1.0}]] * 12},
        {},
        "set data.negatives=negatives.caption",
    ),
    "image is a caption": ({}, {"image": "negatives"}, "lists of string, not an image: set data.image to one of image"),
    "captions of a choice": ({}, {"captions": "last"}, "data.captions=last must be one of first, random"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_read_names_the_key(tmp_path, case):
    columns, keys, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message) as refusal:
        huggingface(**publish(tmp_path, **columns), **keys)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("values", [[[{"raw": c} for c in several] for several in CAPTIONS],
                                    [{"raw": several} for several in CAPTIONS]])  # fmt: skip
def test_a_dotted_name_descends_into_lists(tmp_path, values):
    sample = huggingface(**publish(tmp_path, caption=values), caption="caption.raw").samples([2])[0]
    assert sample.captions == tuple(CAPTIONS[2])


def test_save_to_disk_folders(tmp_path):
    rows = datasets.Dataset.from_dict({"image": [photo(0)], "caption": ["a dog"], "negatives": [["b"]]})
    rows = rows.cast_column("image", datasets.Image())
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "splits")
    for name in ("one", "splits"):
        sample = huggingface(str(tmp_path / name)).samples([0])[0]
        assert sample.caption == "a dog" and sample.image_bytes and sample.negatives == [Negative("b")]
    stream = huggingface(str(tmp_path / "splits"), streaming=True)
    assert isinstance(stream, SampleStream) and [s.caption for s in stream.samples(0, 0)] == ["a dog"]
    with pytest.raises(ConfigError, match=r"data.split=val is not in .*: set it to one of train, test"):
        huggingface(str(tmp_path / "splits"), split="val")


def test_csv_with_a_json_list_and_relative_images(tmp_path, photo_folder):
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "negatives"])
        for i in range(3):
            writer.writerow([f"images/{i}.jpg", json.dumps([f"a {i}", f"b {i}"]), json.dumps(["no, not", "never"])])
    keys = {"path": "csv", "data_files": str(tmp_path / "t.csv"), "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(ConfigError, match=r"relative paths such as images/0.jpg: set data.image_root"):
        huggingface(**keys)
    sample = huggingface(**keys, image_root=str(photo_folder)).samples([1])[0]
    assert sample.image_path == str(photo_folder.resolve() / "images/1.jpg")
    assert sample.captions == ("a 1", "b 1") and [n.text for n in sample.negatives] == ["no, not", "never"]


def test_web_addresses_are_refused(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"url": "https://x.org/a.jpg", "caption": "a", "negatives": ["b"]}\n')
    with pytest.raises(ConfigError, match="img2dataset"):
        huggingface("json", data_files=str(tmp_path / "t.jsonl"), image="url", cache_dir=str(tmp_path / "cache"))


def test_a_builder_given_a_file_of_another_format(tmp_path):
    (tmp_path / "t.csv").write_text("image,caption\nx.jpg,a\n")
    with pytest.raises(ConfigError, match=r"data.data_files: .*t.csv is a CSV table of captions"):
        huggingface("parquet", data_files=str(tmp_path / "t.csv"))


def test_local_files_are_read_without_the_network(tmp_path, monkeypatch):
    """`datasets` asks a remote host to count a download, and we looked up the hub's name."""
    keys = publish(tmp_path)
    asked = []

    def refuse(*arguments, **settings):
        asked.append(arguments)
        raise OSError("blocked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert len(huggingface(**keys)) == 12
    (tmp_path / "folder").mkdir()
    (tmp_path / "t.parquet").rename(tmp_path / "folder" / "train.parquet")
    assert len(huggingface(str(tmp_path / "folder"), cache_dir=str(tmp_path / "cache"))) == 12
    assert next(huggingface(str(tmp_path / "folder"), streaming=True).samples(0, 0)).caption
    assert asked == []
