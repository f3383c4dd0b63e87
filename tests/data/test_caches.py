"""Cache files of the data: damage is named, set aside and repaired; a disk that cannot be written is one sentence."""

import json
import multiprocessing
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from degla.data import cached_table as tables
from degla.data.cached_table import cached_table
from degla.data.sources import folder
from degla.data.sources.table import TABLE_FEATURES
from degla.data.text_features import TextFeatures
from degla.data.tokens import TokenTable
from degla.errors import DataError
from degla.models import load_clip
from tests.conftest import TINY, degla


@pytest.fixture(scope="module")
def student():
    return load_clip("degla-tiny")


def flip_one_bit(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 4
    path.write_bytes(content)


def cached(cache_dir: Path) -> list[Path]:
    return sorted(cache_dir.glob("degla/*.arrow"))


def read(photo_folder, cache_dir, student):
    """Samples and token ids, through the caches."""
    source = folder(str(photo_folder), cache_dir=str(cache_dir))
    tokens = TokenTable(source, student.tokenizer)
    rows = range(len(source))
    return source.samples(rows), tokens.samples(rows)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "no checksum", "damaged checksum"])
def test_damaged_tables_are_named_set_aside_and_written_again(photo_folder, tmp_path, student, caplog, damage):
    before = read(photo_folder, tmp_path, student)
    assert len(cached(tmp_path)) == 2 and not caplog.messages  # samples and tokens
    for path in cached(tmp_path):
        description = path.with_name(f"{path.name}.json")
        if damage == "flip":
            flip_one_bit(path, random.Random(path.name).randrange(path.stat().st_size))
        elif damage == "truncate":
            path.write_bytes(path.read_bytes()[:-100])
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "no checksum":
            description.unlink()
        else:
            description.write_text("[" * 100_000)
    assert read(photo_folder, tmp_path, student) == before
    assert len(caplog.messages) == 2
    for path, message in zip(cached(tmp_path), sorted(caplog.messages), strict=True):
        assert message.startswith(f"data.cache_dir: {path} is not used: ")
        assert path.with_name(f"{path.name}.bad").exists()
    caplog.clear()
    assert read(photo_folder, tmp_path, student) == before and not caplog.messages


def test_every_flipped_bit_of_a_table_is_found(tmp_path, photo_folder, student):
    read(photo_folder, tmp_path, student)
    rng = random.Random(0)
    for path in cached(tmp_path):
        assert tables._problem(path) is None
        for _ in range(200):
            offset = rng.randrange(path.stat().st_size)
            flip_one_bit(path, offset)
            assert "checksum" in tables._problem(path)
            flip_one_bit(path, offset)
        assert tables._problem(path) is None


def test_what_wrote_a_table_is_beside_it(photo_folder, tmp_path, student):
    read(photo_folder, tmp_path, student)
    for path in cached(tmp_path):
        description = json.loads(path.with_name(f"{path.name}.json").read_text())
        assert {"commit", "python", "torch", "degla"} <= set(description["provenance"])
        assert description["bytes"] == path.stat().st_size


def test_large_tables_are_read_in_full_once_a_week(photo_folder, tmp_path, student, monkeypatch):
    monkeypatch.setattr(tables, "_ALWAYS_CHECKED", 0)
    read(photo_folder, tmp_path, student)
    path = cached(tmp_path)[0]
    checked = []
    checksum = tables._checksum
    monkeypatch.setattr(tables, "_checksum", lambda path: checked.append(path) or checksum(path))
    assert tables._problem(path) is None and not checked
    path.touch()  # copied or written to
    assert tables._problem(path) is None and checked == [path]
    assert tables._problem(path) is None and checked == [path]
    week = time.time() + 8 * 24 * 3600
    monkeypatch.setattr(tables.time, "time", lambda: week)
    assert tables._problem(path) is None and checked == [path, path]


def records(marker: Path):
    """Rows, and one file for each process that reads them."""
    (marker / str(multiprocessing.current_process().pid)).touch()
    for number in range(50):
        time.sleep(0.01)
        yield {
            "id": str(number),
            "image": {"bytes": b"x", "path": None},
            "caption": "a dog",
            "negatives": [],
            "hard_image_rows": [],
            "problem": "",
        }


def num_rows(folder: Path) -> int:
    return len(cached_table(records(folder / "read"), TABLE_FEATURES, str(folder), "k" * 32))


def test_two_processes_write_one_table(tmp_path):
    (tmp_path / "read").mkdir()
    (tmp_path / "degla").mkdir()
    (tmp_path / "degla" / f".{'k' * 32}.arrow.12345678.part").touch()  # left by a kill
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(num_rows, [tmp_path, tmp_path], chunksize=1) == [50, 50]
    assert len(list((tmp_path / "read").iterdir())) == 1 and not list(tmp_path.glob("**/*.part"))


def test_a_folder_that_cannot_be_written(photo_folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"data.cache_dir: .* cannot be written \(Not a directory\): make its folder"):
        folder(str(photo_folder), cache_dir=str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"teacher.text_cache: .* cannot be written \(.*\): make its"):
        TextFeatures(tmp_path / "file" / "features.f32", 10, 8)


_ON_A_FULL_DISK = """
import sys
from degla.errors import DataError
from degla.data.sources.scenes import scenes
from degla.data.text_features import TextFeatures
from pathlib import Path
for make in (lambda: scenes(400, cache_dir=sys.argv[1]), lambda: TextFeatures(Path(sys.argv[1]) / "f32", 1000, 512)):
    try:
        make()
    except DataError as error:
        print(error)
"""


def test_a_full_disk(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    command = [sys.executable, "-c", _ON_A_FULL_DISK, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    first, second = result.stdout.splitlines()
    assert first.startswith("data.cache_dir: ") and "cannot be written (File too large): free some space" in first
    assert second.startswith("teacher.text_cache: ") and "cannot be written (File too large): free some space" in second
    assert not list(tmp_path.glob("**/*.part")) and not cached(tmp_path)


def test_a_flipped_bit_of_a_vector_is_found(tmp_path, caplog):
    features = normalize(torch.randn(6, 8), dim=-1)
    store = TextFeatures(tmp_path / "f32", 6, 8)
    store.write(np.arange(6), features)
    for byte in range(32):  # one vector, each of its bytes
        flip_one_bit(tmp_path / "f32", 4096 + 36 * 2 + byte)
        again = TextFeatures(tmp_path / "f32", 6, 8)
        assert again.read(np.array([2])) is None and torch.equal(again.read(np.array([1, 3])), features[[1, 3]])
        flip_one_bit(tmp_path / "f32", 4096 + 36 * 2 + byte)
    assert len(caplog.messages) == 32 and "has a vector without its checksum" in caplog.messages[0]
    assert torch.equal(TextFeatures(tmp_path / "f32", 6, 8).read(np.arange(6)), features)


@pytest.mark.parametrize("damage", ["header", "truncate", "earlier format"])
def test_damaged_text_features_are_set_aside(tmp_path, caplog, damage):
    path = tmp_path / "f32"
    TextFeatures(path, 6, 8).write(np.arange(6), normalize(torch.randn(6, 8), dim=-1))
    if damage == "header":
        flip_one_bit(path, 40)
    else:
        path.write_bytes(path.read_bytes()[:-1] if damage == "truncate" else bytes(6 * 8 * 4))
    assert TextFeatures(path, 6, 8).read(np.array([0])) is None
    assert len(caplog.messages) == 1 and f"teacher.text_cache: {path} is not used: it" in caplog.messages[0]
    assert path.with_name("f32.bad").exists()


def test_a_run_repairs_its_caches(photo_folder, tmp_path):
    command = [
        *TINY, "data=folder", f"data.path={photo_folder}", "data.cache_dir=cache", "teacher=frozen",
        "teacher.text_cache=texts", "trainer.max_steps=2", "loader.global_batch_size=8",
    ]  # fmt: skip
    degla(*command, "run_dir=first", cwd=tmp_path)
    for path in [*cached(tmp_path / "cache"), *tmp_path.glob("texts/*.f32")]:
        flip_one_bit(path, path.stat().st_size // 2)
    again = degla(*command, "run_dir=second", cwd=tmp_path)
    assert " ".join(again.stdout.split()).count("is set aside as") == 2  # the console wraps lines
    first, second = ((tmp_path / name / "metrics.csv").read_text() for name in ("first", "second"))
    losses = [[line for line in text.splitlines() if "train/loss" in line] for text in (first, second)]
    assert losses[0] == losses[1] != []
