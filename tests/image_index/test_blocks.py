"""Blocks of features: checksums, compaction, and what a kill leaves."""

import json

import numpy as np
import pytest

from degla.image_index import blocks
from degla.image_index.blocks import compact, delete_blocks, read_blocks, select, write_block
from degla.image_index.manifest import DamagedManifest, ImageFile, read_manifest


@pytest.fixture(autouse=True)
def four_rows_per_block(monkeypatch):
    monkeypatch.setattr(blocks, "ROWS", 4)


def make_files(start, stop):
    return [ImageFile(f"{i}.jpg", i, 1000 + i) for i in range(start, stop)]


def features_of(files):
    """Return features that tell each file apart."""
    return np.array([[file.size, 1.0] for file in files], np.float32)


def write(store, start, stop):
    files = make_files(start, stop)
    return write_block(store, "abc", files, features_of(files))


def content(store):
    rows = select(read_blocks(store), set(make_files(0, 100)))
    np.testing.assert_array_equal(rows.features, features_of(rows.files))
    return sorted(file.size for file in rows.files)


def test_only_blocks_with_gaps_or_few_rows_are_written_again(tmp_path):
    full, gappy, short, shorter = (
        write(tmp_path, 0, 4),
        write(tmp_path, 4, 8),
        write(tmp_path, 8, 10),
        write(tmp_path, 10, 11),
    )
    wanted = set(make_files(0, 11)) - {gappy.files[1]}
    parts = compact(tmp_path, [full, gappy, short, shorter], wanted)
    assert [len(part.files) for part in parts] == [4, 4, 2] and parts[0].path == full.path
    assert len(read_blocks(tmp_path)) == 6  # the old ones are there until the manifest is written
    delete_blocks(tmp_path, keep={part.path for part in parts})
    assert content(tmp_path) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert [part.path for part in compact(tmp_path, parts, wanted)] == [part.path for part in parts]


def test_rows_that_a_kill_has_left_twice_are_kept_once(tmp_path):
    parts = [write(tmp_path, 0, 4), write(tmp_path, 0, 2), write(tmp_path, 2, 4), write(tmp_path, 0, 4)]
    assert len(select(parts, set(make_files(0, 4))).files) == 4
    kept = compact(tmp_path, parts, set(make_files(0, 4)))
    delete_blocks(tmp_path, keep={part.path for part in kept})
    assert content(tmp_path) == [0, 1, 2, 3] and sum(len(part.files) for part in kept) == 4


@pytest.mark.parametrize("damage", ["flip", "truncate", "swap"])
def test_a_damaged_block_is_named_and_deleted(tmp_path, caplog, damage):
    good, bad = write(tmp_path, 0, 4), write(tmp_path, 4, 8)
    data = bytearray(bad.path.read_bytes())
    if damage == "flip":
        data[-3] ^= 1
    elif damage == "truncate":
        del data[-5:]
    else:  # another image's name over the same features
        at = data.index(b"5.jpg")
        data[at : at + 5] = b"9.jpg"
    bad.path.write_bytes(data)
    assert [block.path for block in read_blocks(tmp_path)] == [good.path]
    assert str(bad.path) in caplog.text and "embedded again" in caplog.text and not bad.path.exists()


def test_half_written_files_are_deleted(tmp_path):
    kept = write(tmp_path, 0, 4)
    (tmp_path / ".features-x.safetensors.12345678.part").write_bytes(b"half")
    delete_blocks(tmp_path, keep={kept.path})
    assert list(tmp_path.iterdir()) == [kept.path]


def test_a_changed_file_has_another_key():
    keys = {ImageFile("a.jpg", 1, 2).key, ImageFile("a.jpg", 2, 2).key, ImageFile("a.jpg", 1, 3).key}
    assert len(keys) == 3 and all(0 <= key < 2**63 for key in keys)
    assert ImageFile("a.jpg", 1, 2).key == ImageFile("a.jpg", 1, 2).key


@pytest.mark.parametrize("text", ["", "{", "[]", "null", json.dumps({"format": 2}), '{"format": 1, "images": [["a"]]}'])
def test_a_damaged_manifest_is_one_error(tmp_path, text):
    assert read_manifest(tmp_path) is None
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DamagedManifest):
        read_manifest(tmp_path)
