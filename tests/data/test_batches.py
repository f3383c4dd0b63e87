"""From samples to batches: choice of negatives, bad samples, order, shards, resuming."""

import io
import itertools
import json
import random
import shutil
import tarfile
from collections import Counter

import datasets
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
from degla.data.loading import StreamBatches, StreamSampler, TableBatches, identity_collate
from degla.data.problems import ProblemLog
from degla.data.sampler import RunSampler, ShardSampler
from degla.data.schema import Negative, Problem, Sample
from degla.data.select import SELECTIONS
from degla.data.sources import SampleStream, folder, huggingface
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


def test_one_per_type_has_one_slot_per_kind():
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


def test_long_captions_are_truncated_and_named(collate, photo_folder):
    row = folder(str(photo_folder)).samples([0])[0]._replace(caption="word " * 1000)
    batch = collate([(row, Draw(0, "0"))])
    assert batch.captions.shape == (1, 77) and "was truncated" in batch.problems[0].reason


def test_a_batch_of_bad_rows_takes_the_next_rows(collate, photo_folder):
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


def test_a_similar_image_beyond_the_table_is_named(collate, photo_folder):
    table = folder(str(photo_folder))
    plain = table.to_sample
    table.to_sample = lambda record, i: plain(record, i)._replace(hard_image_rows=[24] if i else [1])
    batch = TableBatches(table, collate, hard_images=True).__getitems__([Draw(0, "a"), Draw(6, "b")])
    assert [row.id for row in batch.samples] == [f"captions.jsonl:{line}" for line in (1, 7, 2)]
    reason = "similar image 24 is beyond the 24 rows of the table"
    assert batch.problems == [Problem("captions.jsonl:7", reason, skipped=False)]


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


def test_every_row_is_read_once_a_pass_when_the_number_of_ranks_changes():
    """All plans of up to 40 rows without drop_last: a run that is stopped anywhere and resumed on other ranks.

    Before, a last batch with fewer rows than ranks was left out, and all later batches had other numbers.
    """
    plans = 0
    for rows, batch_size, before, after in itertools.product(range(4, 41, 3), (4, 6, 8), (1, 2, 3), (1, 2, 4)):
        try:
            samplers = {
                world: [RunSampler(np.arange(rows), batch_size, 2, 0, False, rank, world) for rank in range(world)]
                for world in (before, after)
            }
        except ConfigError as error:
            assert "loader.drop_last=true" in str(error) and max(before, after) > batch_size // 2 - 1
            continue
        assert len(samplers[before][0]) == len(samplers[after][0])
        for stopped in range(len(samplers[before][0]) + 1):
            plans += 1
            read = []
            for world, start, end in ((before, 0, stopped), (after, stopped, None)):
                for sampler in samplers[world]:
                    sampler.start = start
                parts = [list(sampler)[: None if end is None else end - start] for sampler in samplers[world]]
                assert all(batch for part in parts for batch in part)
                read += [draw for batch in zip(*parts, strict=True) for part in batch for draw in part]
            assert [sorted(draw.row for draw in read[i * rows :][:rows]) for i in (0, 1)] == [list(range(rows))] * 2
    assert plans > 1500


@pytest.mark.parametrize(
    ("rows", "sizes"), [(24, [8, 8, 8]), (28, [8, 8, 8, 4]), (27, [8, 8, 6, 5]), (9, [5, 4]), (7, [7]), (8, [8])]
)
def test_sizes_of_the_last_batches(rows, sizes):
    assert [len(batch) for batch in RunSampler(np.arange(rows), 8, 1, 0, drop_last=False)] == sizes


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


def stream_loader(stream, collate, batch_size, rank=0, world_size=1, start=0, workers=0):
    shares = StreamSampler(stream, batch_size, 0, rank, world_size, start)
    batches = StreamBatches(stream, collate, 0)
    return DataLoader(batches, batch_sampler=shares, num_workers=workers, collate_fn=identity_collate)


def test_nothing_usable_ends_a_stream_and_bad_batches_keep_its_position(stream, collate):
    plain = stream.to_sample

    def loader(is_bad, start=0, workers=0):
        stream.to_sample = lambda record, number: plain(record, number)._replace(**is_bad(number))
        return iter(stream_loader(stream, collate, 2, start=start, workers=workers))

    message = r"none of 1000 rows in sequence could be used; the first failure was parquet:0: empty caption"
    with pytest.raises(DataError, match=message):
        next(loader(lambda number: {"caption": ""}))
    bad = {4, 5}  # all of the third batch
    batches = loader(lambda number: {"caption": ""} if number in bad else {})
    first = list(itertools.islice(batches, 5))
    assert [len(batch.samples) for batch in first] == [2, 2, 1, 2, 2]
    assert first[2].samples[0].id == first[3].samples[0].id  # the next sample of the stream takes their place
    assert {problem.row for problem in first[2].problems} == {"parquet:4", "parquet:5"}
    for start, workers in ((3, 0), (2, 0), (2, 2)):
        resumed = loader(lambda number: {"caption": ""} if number in bad else {}, start, workers)
        assert [row.id for row in next(resumed).samples] == [row.id for row in first[start].samples]


def test_stream_resumes_where_it_stopped(stream, collate):
    def batches(start, count):
        loader = iter(stream_loader(stream, collate, 4, start=start))
        return [[row.caption for row in next(loader).samples] for _ in range(count)]

    assert batches(0, 12)[5:] == batches(5, 7)  # a pass is 6 batches: across its end


def test_a_resumed_stream_reads_at_most_one_pass_again(stream):
    whole = list(itertools.islice(StreamSampler(stream, 5, 0), 40))  # a pass is 24 rows
    read = Counter()
    blocks = stream.blocks

    def counted(seed, epoch, start=None):
        for block in blocks(seed, epoch, start):
            read[epoch] += len(block.records)
            yield block

    stream.blocks = counted
    assert next(iter(StreamSampler(stream, 5, 0, start=39))) == whole[39]
    assert read[0] == 24 and read.total() <= 24 + 24


PLANS = [
    (shards, ranks, batch_size, shuffle_buffer)
    for shards in ((12, 12, 12), (7, 3, 12), (9,), (1, 1, 1, 1, 1), (6, 6, 6, 6))
    for ranks in (1, 2, 3)
    for batch_size in (3, 4, 7)
    for shuffle_buffer in (1, 4, 100)
]


def rows_of_shards(shards):
    for number, count in shards:
        yield from ({"caption": f"row {number} {i}"} for i in range(count))


def test_every_pass_of_a_stream_is_exact_for_every_plan():
    """Enumerates shards, ranks, batch sizes, shuffle buffers, and a change of ranks after some number of batches."""
    for shards, ranks, batch_size, shuffle_buffer in PLANS:
        stream = SampleStream(
            datasets.IterableDataset.from_generator(rows_of_shards, gen_kwargs={"shards": list(enumerate(shards))}),
            lambda record, number: Sample(str(number), None, None, record["caption"], []),
            shuffle_buffer,
        )
        assert stream.dataset.num_shards == len(shards)
        rows, batches = sum(shards), -(-2 * sum(shards) // batch_size)

        def shares(world_size, start, count, stream=stream, batch_size=batch_size):
            samplers = [
                iter(StreamSampler(stream, batch_size, 0, rank, world_size, start)) for rank in range(world_size)
            ]
            return [[pair for part in samplers for pair in next(part).samples] for _ in range(count)]

        whole = shares(ranks, 0, batches)
        read = [sample.caption for batch in whole for sample, _ in batch]
        for start in (0, rows):
            assert len(set(read[start : start + rows])) == rows, (shards, ranks, batch_size, shuffle_buffer)
        assert whole == shares(1, 0, batches)
        stopped = (ranks * batch_size + shuffle_buffer) % batches  # a different batch in every plan
        assert whole[:stopped] + shares(ranks % 3 + 1, stopped, batches - stopped) == whole


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_pass_is_exact_with_real_workers(collate, tmp_path, form, workers):
    """Three shards of 7, 3 and 12 rows over two ranks; the second pass begins on a run that was stopped."""
    stream = uneven_shards(tmp_path, form)
    drawn = []
    for start, count in ((0, 5), (5, 6)):  # 22 rows are 5.5 batches of 4
        ranks = [stream_loader(stream, collate, 4, rank, 2, start, workers) for rank in range(2)]
        batches = [list(itertools.islice(loader, count)) for loader in ranks]
        drawn += [row.caption for pair in zip(*batches, strict=True) for batch in pair for row in batch.samples]
    assert len(drawn) == 44 and len(set(drawn[:22])) == 22 and len(set(drawn[22:])) == 22


def test_a_stream_batch_smaller_than_the_ranks(stream):
    with pytest.raises(ConfigError, match=r"loader.global_batch_size=3 must be at least the number of processes, 4"):
        StreamSampler(stream, 3, 0, 0, 4)


def test_a_truncated_shard_is_named(tmp_path, caplog):
    stream = uneven_shards(tmp_path, "parquet")
    bad = tmp_path / "1.parquet"
    bad.write_bytes(bad.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"a shard of the stream cannot be read .*leave it out of data.data_files"):
        list(stream.samples(0, 0))
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
