"""Cross-validation: which fold each row is in, and what the loader makes of it."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from degla.data.datamodule import DataModule
from degla.data.image_rows import table_image_ids
from degla.data.schema import image_key
from degla.data.sources import SampleTable, folder, huggingface
from degla.data.split import image_folds
from degla.errors import ConfigError
from degla.models import load_clip
from tests.conftest import make_photo_folder

NUM_FOLDS = 5


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photo_folder(tmp_path_factory.mktemp("folds") / "photos", images=60)


@pytest.fixture(scope="module")
def student():
    return load_clip("degla-tiny")


def fold_of_images(table: SampleTable, seed: int = 42) -> dict[str, int]:
    """Return image -> fold; fails where an image has rows in two folds."""
    folds: dict[str, set[int]] = {}
    for sample, fold in zip(table.samples(range(len(table))), image_folds(table, NUM_FOLDS, seed), strict=True):
        folds.setdefault(image_key(sample).rpartition("/")[2], set()).add(int(fold))
    assert all(len(found) == 1 for found in folds.values())
    return {name: found.pop() for name, found in folds.items()}


def table_of(lines: list[str], photos: Path, path: Path) -> SampleTable:
    path.mkdir()
    (path / "captions.jsonl").write_text("\n".join(lines))
    return folder(str(path), image_root=str(photos), cache_dir=str(path / "cache"))


def test_every_image_is_in_one_fold_with_all_its_captions(photos, tmp_path):
    table = folder(str(photos), cache_dir=str(tmp_path))
    folds = image_folds(table, NUM_FOLDS, 42)
    assert folds.shape == (120,) and folds.dtype == np.int64
    assert set(folds.tolist()) == set(range(NUM_FOLDS)) and len(fold_of_images(table)) == 60
    assert np.array_equal(folds[::2], folds[1::2])  # two rows of each image
    assert np.bincount(folds).min() >= 10  # of 24 expected


def test_a_fold_depends_on_the_image_and_the_seed_alone(photos, tmp_path):
    expected = fold_of_images(folder(str(photos), cache_dir=str(tmp_path / "one")))
    assert fold_of_images(folder(str(photos), cache_dir=str(tmp_path / "two"))) == expected
    lines = (photos / "captions.jsonl").read_text().splitlines()
    random.Random(0).shuffle(lines)
    assert fold_of_images(table_of(lines, photos, tmp_path / "shuffled")) == expected
    fewer = fold_of_images(table_of(lines[:50], photos, tmp_path / "fewer"))
    assert fewer == {name: expected[name] for name in fewer} and len(fewer) < 60
    other_seed = fold_of_images(folder(str(photos), cache_dir=str(tmp_path / "one")), seed=7)
    assert other_seed != expected


def test_the_folds_of_the_loader_share_out_the_rows(student, photos):
    table = folder(str(photos))
    images = table_image_ids(table)
    tested: list[int] = []
    for fold in range(NUM_FOLDS):
        data = DataModule(
            table, student.tokenizer, (64, 64), student.preprocess, num_folds=NUM_FOLDS, fold=fold, global_batch_size=8
        )
        assert sorted([*data.train_indices, *data.val_indices]) == list(range(120))
        assert not set(images[data.train_indices]) & set(images[data.val_indices])
        tested += data.val_indices.tolist()
    assert sorted(tested) == list(range(120))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_folds": 5, "fold": 5}, r"loader\.fold=5 must be from 0 to 4"),
        ({"fold": 1}, r"loader\.fold=1 is one of no folds: set loader\.num_folds=5"),
        ({"num_folds": 1}, r"loader\.num_folds=1 must be a whole number of 2 or more, or null"),
        ({"num_folds": 5, "val_fraction": 0.1}, r"set loader\.val_fraction=0 and data@val_data=none"),
        ({"num_folds": 5, "hard_images": True}, r"loader\.hard_images would bring held-out images into training"),
        ({"num_folds": 100_000}, r"loader\.fold=0 holds no image of this data: lower loader\.num_folds=100000"),
    ],
)
def test_settings_that_cannot_be(student, photos, settings, message):
    with pytest.raises(ConfigError, match=message):
        DataModule(folder(str(photos)), student.tokenizer, (64, 64), student.preprocess, **settings)


def test_a_stream_and_other_validation_data_are_refused(student, photos, tmp_path):
    table = folder(str(photos))
    arguments = (student.tokenizer, (64, 64), student.preprocess)
    with pytest.raises(ConfigError, match=r"set loader\.num_folds=null"):
        DataModule(table, *arguments, val_source=table, num_folds=5)
    rows = [{"image": str(photos / "images/0.jpg"), "caption": "a", "negatives": []}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    stream = huggingface("json", data_files=str(tmp_path / "rows.jsonl"), streaming=True)
    with pytest.raises(ConfigError, match=r"loader\.num_folds cannot split a stream"):
        DataModule(stream, *arguments, num_folds=5)


def test_real_photos_keep_their_five_captions_together(flickr, tmp_path):
    table = folder(str(flickr), "negatives.jsonl", "images", cache_dir=str(tmp_path))
    folds = image_folds(table, NUM_FOLDS, 42)
    sizes = np.bincount(folds)
    assert len(fold_of_images(table)) == 1000 and sizes.sum() == 5000 and not (sizes % 5).any()
    assert sizes.min() > 160 * 5 and sizes.max() < 240 * 5
