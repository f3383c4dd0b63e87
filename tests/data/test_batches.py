"""Rows to batches: choice of negatives, bad rows, order, shards, resuming."""

import collections
import io
import itertools
import json
import random
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from degla.data.collate import Collate, Draw
from degla.data.datamodule import DataModule
from degla.data.images import BadImage, decode
from degla.data.loading import StreamBatches, TableBatches
from degla.data.problems import ProblemLog
from degla.data.sampler import RunSampler, ShardSampler
from degla.data.schema import Negative, Problem
from degla.data.select import SELECTIONS
from degla.data.sources import folder, huggingface
from degla.data.transforms import EvalTransform, TrainTransform
from degla.errors import ConfigError, DataError
from degla.models import load_clip
from tests.conftest import KINDS


@pytest.fixture(scope="module")
def student():
    return load_clip("degla-tiny")


@pytest.fixture
def collate(student):
    return Collate(TrainTransform((64, 64), (0.9, 1.0)), student.tokenizer, 4, "first")


NEGATIVES = [Negative(f"n{i}", kind) for i, kind in enumerate(KINDS)]


def texts(slots):
    return [slot and slot.text for slot in slots]


def test_first_negatives():
    rng = random.Random(0)
    assert texts(SELECTIONS["first"](NEGATIVES, 3, rng)) == ["n0", "n1", "n2"]
    assert texts(SELECTIONS["first"](NEGATIVES[:1], 3, rng)) == ["n0", None, None]


def test_random_negatives_do_not_repeat():
    drawn = {tuple(texts(SELECTIONS["random"](NEGATIVES, 3, random.Random(i)))) for i in range(200)}
    assert len(drawn) == 10 and all(len(set(row)) == 3 for row in drawn)  # 5 choose 3


def test_one_per_type_has_a_slot_a_kind():
    rows = [*NEGATIVES[::-1], Negative("other", "swap_nouns")]
    drawn = {tuple(texts(SELECTIONS["one_per_type"](rows, 5, random.Random(i)))) for i in range(50)}
    assert drawn == {("n0", "n1", "n2", "n3", "n4"), ("n0", "other", "n2", "n3", "n4")}
    assert texts(SELECTIONS["one_per_type"](NEGATIVES[2:], 5, random.Random(0))) == [None, None, "n2", "n3", "n4"]
    few = {tuple(texts(SELECTIONS["one_per_type"](NEGATIVES, 4, random.Random(i)))) for i in range(100)}
    assert len(few) == 5
    with_extra = [*NEGATIVES, Negative("c", "count")]
    assert texts(SELECTIONS["one_per_type"](with_extra, 6, random.Random(0))) == ["n0", "n1", "n2", "n3", "n4", "c"]


def test_batch(student, collate, photo_folder):
    table = folder(str(photo_folder))
    rows = table.samples([0, 1, 2])
    rows[1] = rows[1]._replace(negatives=rows[1].negatives[:2])
    rows[2] = rows[2]._replace(negatives=[])
    batch = collate([(row, Draw(i, str(i))) for i, row in enumerate(rows)])
    assert batch.images.shape == (3, 3, 64, 64) and batch.images.dtype == torch.uint8
    assert batch.negative_mask.sum(1).tolist() == [4, 2, 0]
    tokens = student.tokenizer([rows[0].caption, *[n.text for n in rows[0].negatives[:4]]])
    length = tokens.shape[1]
    assert torch.equal(batch.captions[0, :length], tokens[0]) and torch.equal(
        batch.negatives[0, :, :length], tokens[1:]
    )
    assert batch.problems == [Problem(rows[2].id, "no negatives: trains the global loss only", False)]


def bad_rows(photo_folder):
    good = folder(str(photo_folder)).samples([0])[0]
    jpeg = (photo_folder / "images/0.jpg").read_bytes()
    return {
        "truncated": good._replace(id="truncated", image_bytes=jpeg[: len(jpeg) // 2]),
        "html": good._replace(id="html", image_bytes=b"<html>404</html>"),
        "empty": good._replace(id="empty", image_bytes=b""),
        "missing": good._replace(id="missing", image_path="/no/such.jpg"),
        "no caption": good._replace(id="no caption", caption=" \n"),
        "broken line": good._replace(id="broken line", problem="not JSON"),
    }


def test_bad_rows_are_left_out_and_named(collate, photo_folder):
    rows = bad_rows(photo_folder)
    good = folder(str(photo_folder)).samples([1])[0]
    batch = collate([(row, Draw(0, "0")) for row in [*rows.values(), good]])
    assert [row.id for row in batch.samples] == [good.id]
    assert {problem.row for problem in batch.problems if problem.skipped} == set(rows)


def test_decompression_bomb_and_odd_modes(photo_folder, monkeypatch):
    import io

    from PIL import Image

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadImage, match="decompression bomb"):
        decode(None, str(photo_folder / "images/0.jpg"))
    monkeypatch.undo()
    for mode in ("L", "P", "RGBA", "CMYK", "I;16"):
        buffer = io.BytesIO()
        Image.new(mode, (40, 30)).save(buffer, "TIFF" if mode in ("CMYK", "I;16") else "PNG")
        assert decode(buffer.getvalue(), None).shape == (3, 30, 40)


def test_negatives_equal_to_the_caption_are_dropped(collate, photo_folder):
    row = folder(str(photo_folder)).samples([0])[0]
    row = row._replace(negatives=[Negative("Photo  number 0 said 0"), Negative(""), Negative("fine")])
    batch = collate([(row, Draw(0, "0"))])
    assert texts(batch.slots[0]) == ["fine", None, None, None]
    assert "dropped 2" in batch.problems[0].reason


def test_long_captions_are_cut_and_named(collate, photo_folder):
    row = folder(str(photo_folder)).samples([0])[0]._replace(caption="word " * 1000)
    batch = collate([(row, Draw(0, "0"))])
    assert batch.captions.shape == (1, 77) and "was truncated" in batch.problems[0].reason


def test_a_batch_of_bad_rows_reads_on(collate, photo_folder):
    (photo_folder / "images/0.jpg").write_bytes(b"")
    batches = TableBatches(folder(str(photo_folder)), collate)
    batch = batches.__getitems__([Draw(0, "a"), Draw(1, "b")])
    assert [row.id for row in batch.samples] == ["captions.jsonl:3"]
    assert len([p for p in batch.problems if p.skipped]) == 2


def test_all_rows_bad_is_an_error(collate, photo_folder):
    for image in (photo_folder / "images").iterdir():
        image.write_bytes(b"")
    with pytest.raises(DataError, match=r"captions.jsonl:1"):
        TableBatches(folder(str(photo_folder)), collate).__getitems__([Draw(0, "a")])


def test_hard_images_double_the_batch(collate, photo_folder):
    table = folder(str(photo_folder))
    plain = table.to_sample
    table.to_sample = lambda record, i: plain(record, i)._replace(hard_image_rows=[(i + 2) % 24, (i + 4) % 24])
    batch = TableBatches(table, collate, hard_images=True).__getitems__([Draw(0, "a"), Draw(6, "b")])
    ids = [row.id for row in batch.samples]
    assert ids[:2] == ["captions.jsonl:1", "captions.jsonl:7"] and len(ids) == 4
    assert ids[2] in ("captions.jsonl:3", "captions.jsonl:5")


def test_order_is_the_same_for_any_number_of_ranks_and_any_start():
    def batches(rank=0, world=1, start=0, drop_last=True):
        sampler = RunSampler(np.arange(23), 6, 3, 7, drop_last, rank, world, start)
        return [[draw.row for draw in batch] for batch in sampler]

    whole = batches()
    assert len(whole) == 9
    for epoch in range(3):
        assert len({i for batch in whole[3 * epoch : 3 * epoch + 3] for i in batch}) == 18
    assert whole[:3] != whole[3:6]
    assert batches(start=5) == whole[5:]
    for world in (2, 4):
        parts = [batches(rank, world) for rank in range(world)]
        assert [[i for part in parts for i in part[b]] for b in range(9)] == whole
    ragged = batches(drop_last=False)
    assert len(ragged) == 12 and sorted(i for batch in ragged[:4] for i in batch) == list(range(23))


def test_what_is_random_about_a_row_depends_on_seed_pass_and_row_only(collate, photo_folder):
    table = folder(str(photo_folder))
    alone = collate([(table.samples([5])[0], Draw(5, "42-0-5"))])
    torch.manual_seed(999)
    together = collate([(row, Draw(i, f"42-0-{i}")) for i, row in zip((3, 5), table.samples([3, 5]), strict=True)])
    assert torch.equal(alone.images[0], together.images[1])
    later = collate([(table.samples([5])[0], Draw(5, "42-1-5"))])
    assert not torch.equal(alone.images, later.images)


def test_the_global_generator_is_left_alone(collate, photo_folder):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    collate([(folder(str(photo_folder)).samples([0])[0], Draw(0, "x"))])
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("rows", [3, 4, 7, 25, 64, 65])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_validation_shards_repeat_no_row_and_have_as_many_batches(rows, batch_size):
    shards = [list(ShardSampler(np.arange(rows), batch_size, rank, 3)) for rank in range(3)]
    assert [draw.row for shard in shards for batch in shard for draw in batch] == list(range(rows))
    assert len({len(shard) for shard in shards}) == 1
    assert all(1 <= len(batch) <= batch_size + 1 for shard in shards for batch in shard)


def test_one_process_keeps_to_the_batch_size():
    assert [len(batch) for batch in ShardSampler(np.arange(9), 4)] == [3, 3, 3]
    with pytest.raises(ConfigError, match=r"2 validation row\(s\) cannot be shared by 3 processes"):
        ShardSampler(np.arange(2), 4, 0, 3)


def test_eval_transform_is_open_clips(photo_folder):
    import open_clip
    from PIL import Image

    theirs = open_clip.image_transform(64, is_train=False, mean=(0, 0, 0), std=(1, 1, 1))
    for name in ("3.jpg", "7.jpg"):
        path = photo_folder / "images" / name
        ours = EvalTransform((64, 64))(decode(None, str(path))).float()
        expected = theirs(Image.open(path)) * 255
        assert (ours - expected).abs().max() <= 1.01


def module(student, source, **arguments):
    settings = {"global_batch_size": 4, "epochs": 1, "num_workers": 0, **arguments}
    return DataModule(source, student.tokenizer, student.image_size, student.preprocess, **settings)


def test_images_are_never_on_both_sides_of_the_split(student, photo_folder):
    data = module(student, folder(str(photo_folder)), val_fraction=0.4)
    train, val = (
        {row.image_path for row in data.source.samples(list(i))} for i in (data.train_indices, data.val_indices)
    )
    assert train and val and not train & val
    assert len(data.train_indices) + len(data.val_indices) == 24


def test_the_split_stays_when_the_data_move(student, photo_folder, tmp_path):
    shutil.copytree(photo_folder, tmp_path / "elsewhere")
    one, other = (module(student, folder(str(f)), val_fraction=0.4) for f in (photo_folder, tmp_path / "elsewhere"))
    assert list(one.val_indices) == list(other.val_indices)


def test_too_few_rows_for_a_batch(student, photo_folder):
    with pytest.raises(ConfigError, match=r"loader.global_batch_size=256"):
        module(student, folder(str(photo_folder)), global_batch_size=256)


@pytest.fixture
def stream(hub_dataset, tmp_path):
    for i in range(4):
        hub_dataset.shard(4, i).to_parquet(tmp_path / f"train-{i}.parquet")
    return huggingface("parquet", data_files=str(tmp_path / "*.parquet"), streaming=True, shuffle_buffer=4)


def test_nothing_usable_ends_a_stream_and_bad_batches_keep_its_place(stream, collate):
    plain = stream.to_sample

    def loader(is_bad, start=0):
        stream.to_sample = lambda record, number: plain(record, number)._replace(**is_bad(number))
        return iter(StreamBatches(stream, collate, 2, 0, 0, 1, start))

    with pytest.raises(
        DataError, match=r"none of 1000 rows in sequence could be used; the first failure was parquet:0: empty caption"
    ):
        next(loader(lambda number: {"caption": ""}))
    bad = {4, 5}  # all of the third batch
    batches = loader(lambda number: {"caption": ""} if number in bad else {})
    first = list(itertools.islice(batches, 5))
    assert [len(batch.samples) for batch in first] == [2, 2, 1, 2, 2]  # one that was seen stands in
    assert first[2].samples[0].id in {row.id for row in first[1].samples}
    assert {problem.row for problem in first[2].problems} == {"parquet:4", "parquet:5"}
    resumed = loader(lambda number: {"caption": ""} if number in bad else {}, start=3)
    assert [row.id for row in next(resumed).samples] == [row.id for row in first[3].samples]


def test_stream_resumes_where_it_stopped(stream, collate):
    def batches(start, count):
        loader = iter(StreamBatches(stream, collate, 4, 0, 0, 1, start))
        return [[row.caption for row in next(loader).samples] for _ in range(count)]

    assert batches(0, 12)[5:] == batches(5, 7)  # a pass is 6 batches: across its end


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_uneven_shards_over_ranks_and_workers(collate, tmp_path, form):
    """Three shards of 7, 3 and 12 rows: nobody runs dry, and no row is seen twice before all have been seen."""
    stream = uneven_shards(tmp_path, form)
    first_pass = collections.Counter()
    for rank in range(2):
        for workers, count in ((0, 6), (2, 8)):  # a pass is 11 rows
            batches = DataLoader(StreamBatches(stream, collate, 2, 0, rank, 2, 0), batch_size=None, num_workers=workers)
            drawn = [row.caption for batch in itertools.islice(batches, count) for row in batch.samples]
            assert len(drawn) == 2 * count
            if workers == 0:
                first_pass.update(drawn[:11])
    assert set(first_pass.values()) == {1} and len(first_pass) == 22


@pytest.mark.parametrize(("shards", "world_size"), [((6, 6, 6, 6), 2), ((7, 3, 12), 2), ((9,), 1)])
def test_a_stream_resumed_with_workers_goes_on_where_it_was(collate, tmp_path, shards, world_size):
    stream = uneven_shards(tmp_path, "parquet", shards)

    def drawn(start, count):
        batches = StreamBatches(stream, collate, 2, 0, 0, world_size, start)
        loader = DataLoader(batches, batch_size=None, num_workers=2)
        return [[row.caption for row in batch.samples] for batch in itertools.islice(loader, count)]

    undisturbed = drawn(0, 9)  # across the end of a pass, which is 4 to 6 batches
    assert drawn(3, 6) == undisturbed[3:]


def test_a_shard_cut_short_is_said(tmp_path, caplog):
    stream = uneven_shards(tmp_path, "parquet")
    bad = tmp_path / "1.parquet"
    bad.write_bytes(bad.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"a shard of the stream cannot be read .*leave it out of data.data_files"):
        list(stream.samples(0, 0, 0, 1))
    assert "1.parquet" in caplog.text


def uneven_shards(folder, form, rows=(7, 3, 12)):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG")
    photo = buffer.getvalue()
    for shard, count in enumerate(rows):
        names = [f"row {shard} {i}" for i in range(count)]
        if form == "parquet":
            table = {"image": [{"bytes": photo, "path": None}] * count, "caption": names, "negatives": [["no"]] * count}
            pq.write_table(pa.table(table), folder / f"{shard}.parquet", row_group_size=2)
            continue
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for i, name in enumerate(names):
                text = json.dumps({"caption": name, "negatives": ["no"]}).encode()
                for suffix, content in (("jpg", photo), ("json", text)):
                    member = tarfile.TarInfo(f"{shard}_{i:03d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    if form == "parquet":
        return huggingface("parquet", data_files=str(folder / "*.parquet"), streaming=True, shuffle_buffer=4)
    columns = {"image": "jpg", "caption": "json.caption", "negatives": "json.negatives"}
    return huggingface("webdataset", data_files=str(folder / "*.tar"), **columns, streaming=True, shuffle_buffer=4)


def test_stream_cannot_be_split(student, stream):
    with pytest.raises(ConfigError, match="data@val_data"):
        module(student, stream, val_fraction=0.1)


def test_problem_log_names_once_stops_and_resumes(tmp_path):
    path = tmp_path / "bad_rows.csv"
    log = ProblemLog(path, num_rows=100, max_bad_fraction=0.02)
    log.add([Problem("a:1", "no such file: x", True)] * 2, 3)
    log.add([Problem("a:1", "no such file: x", True), Problem("a:2", "cut", False)], 3)
    assert len(path.read_text().splitlines()) == 3
    again = ProblemLog(path, num_rows=100, max_bad_fraction=0.02)
    again.add([Problem("a:1", "no such file: x", True), Problem("a:3", "empty file: y", True)], 3)
    assert len(path.read_text().splitlines()) == 4
    with pytest.raises(DataError, match=r"a:4 .*loader\.max_bad_fraction=0\.02"):
        again.add([Problem("a:4", "empty file: z", True)], 3)


def test_zero_tolerance_stops_at_the_first(tmp_path):
    with pytest.raises(DataError, match="row a:1"):
        ProblemLog(None, 10**6, 0.0).add([Problem("a:1", "empty file", True)], 5)
