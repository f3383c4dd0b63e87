"""The validation split: that of earlier releases, the same from the cache, and read without samples where it can be."""

import hashlib
from pathlib import Path

import datasets
import numpy as np
import pytest

from degla.data.cached_table import cached_table
from degla.data.schema import image_key, texts_of
from degla.data.sources import folder, huggingface
from degla.data.sources.table import SampleTable
from degla.data.split import held_out_rows


def expected_rows(table, fraction, seed):
    """Return the rule of the split, one sample at a time."""
    keys = ["/".join(Path(image_key(sample)).parts[-2:]) for sample in table.samples(range(len(table)))]
    digests = [hashlib.sha1(f"{seed}:{key}".encode()).hexdigest()[:12] for key in keys]
    return np.array([int(digest, 16) / 16**12 < fraction for digest in digests])


@pytest.fixture(params=["folder", "parquet"])
def table(request, photo_folder, hub_dataset, tmp_path):
    if request.param == "folder":
        with (photo_folder / "captions.jsonl").open("a") as file:
            file.write('{"caption": "a row without its image"}\nnot JSON\n')
        return folder(str(photo_folder), cache_dir=str(tmp_path))
    hub_dataset.to_parquet(tmp_path / "rows.parquet")
    return huggingface("parquet", data_files=str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path))


@pytest.mark.parametrize("fraction", [0.4, 0.6])
def test_the_split_is_that_of_the_hashes(table, fraction):
    rows = held_out_rows(table, fraction, 7)
    assert np.array_equal(rows, expected_rows(table, fraction, 7)) and 0 < rows.sum() < len(rows)
    assert not np.array_equal(rows, held_out_rows(table, fraction, 8))


def test_the_split_is_read_once(table, monkeypatch):
    rows = held_out_rows(table, 0.3, 7)
    monkeypatch.setattr(SampleTable, "image_keys", None)  # asking for them again would fail
    assert np.array_equal(held_out_rows(table, 0.3, 7), rows)
    assert held_out_rows(table, 0.99, 7).sum() > rows.sum()


def test_columns_give_what_samples_give(table, tmp_path):
    samples = table.samples(range(len(table)))
    assert table.texts_of_rows(0, len(table)) == [texts_of(sample) for sample in samples]
    assert table.texts_of_rows(3, 5) == [texts_of(sample) for sample in samples[3:5]]
    assert table.image_keys(3, len(table)) == [image_key(sample) for sample in samples[3:]]
    for needs in ((), ("negatives",), ("units",)):
        part = table.reading(needs)
        assert part.texts_of_rows(0, 4) == [texts_of(sample) for sample in part.samples(range(4))]


def test_a_table_of_records_is_what_datasets_writes(tmp_path):
    """The columns of pyarrow and of ``datasets`` hold the same values, null and empty lists among them."""
    features = datasets.Features(
        {
            "a": datasets.Value("string"),
            "b": datasets.List({"x": datasets.Value("string"), "y": datasets.Value("int32")}),
        }
    )
    rows = [{"a": None, "b": []}, {"a": "\u00e9\0", "b": [{"x": "1", "y": 2}, {"x": None, "y": None}]}] * 700
    ours = cached_table(iter(rows), features, str(tmp_path), "k" * 32)
    theirs = datasets.Dataset.from_list(rows, features=features)
    assert ours.features == theirs.features and ours.to_list() == theirs.to_list()
    assert ours.data.table.schema.equals(theirs.data.table.schema)
