"""A stream continues from a saved position: the same records in the same order, and few of them read again."""

import io
import itertools
import json
import logging
from collections import Counter

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from degla.data.loading import StreamSampler
from degla.data.schema import Sample
from degla.data.sources import SampleStream, huggingface
from degla.data.stream_order import BlockStart, ChangedStreamError, blocks_of_pass
from degla.data.stream_position import StreamBookmark, position_to_save, saved_position
from tests.data.test_batches import uneven_shards

SHARDS = (7, 3, 12, 1, 9, 20, 4, 4, 11, 6, 2, 8, 5)  # rows; more shards than are open at a time


def captions(blocks):
    return [[record["caption"] for record in block.records] for block in blocks]


def through_text(start):
    return BlockStart.from_json(json.loads(json.dumps(start.to_json())))


def parquet(folder):
    for shard, rows in enumerate(SHARDS):
        table = pa.table({"caption": [f"row {shard} {i}" for i in range(rows)], "image": ["/x.jpg"] * rows})
        pq.write_table(table, folder / f"{shard:02d}.parquet", row_group_size=4)
    return huggingface("parquet", data_files=str(folder / "*.parquet"), negatives=None, streaming=True).dataset


def json_lines(folder):
    for shard, rows in enumerate(SHARDS):
        lines = [json.dumps({"caption": f"row {shard} {i}", "image": "/x.jpg"}) for i in range(rows)]
        (folder / f"{shard:02d}.jsonl").write_text("\n".join(lines))
    return huggingface("json", data_files=str(folder / "*.jsonl"), negatives=None, streaming=True).dataset


def saved_folder(folder):
    rows = {"caption": [f"row {i}" for i in range(sum(SHARDS))], "image": ["/x.jpg"] * sum(SHARDS)}
    datasets.Dataset.from_dict(rows).save_to_disk(folder / "saved")
    return huggingface(str(folder / "saved"), negatives=None, streaming=True).dataset


def generator(folder):
    return datasets.IterableDataset.from_generator(rows_of_shards, gen_kwargs={"shards": list(enumerate(SHARDS))})


def rows_of_shards(shards):
    for number, count in shards:
        yield from ({"caption": f"row {number} {i}"} for i in range(count))


@pytest.mark.parametrize("source", [parquet, json_lines, saved_folder, generator])
def test_reading_continues_from_every_block(tmp_path, source):
    dataset = source(tmp_path)
    for block_size in (7, 30):
        blocks = list(blocks_of_pass(dataset, 3, 1, block_size))
        whole = captions(blocks)
        assert Counter(itertools.chain(*whole)).most_common(1)[0][1] == 1 and sum(map(len, whole)) == sum(SHARDS)
        assert whole != captions(blocks_of_pass(dataset, 3, 2, block_size))
        for number in range(0, len(blocks), max(1, len(blocks) // 4)):
            again = blocks_of_pass(dataset, 3, 1, block_size, through_text(blocks[number].start))
            first = next(again)
            if number % 2:  # once more, from a position of a run that was resumed itself
                follow = next(again, None)
                if follow is not None:
                    rest = blocks_of_pass(dataset, 3, 1, block_size, through_text(follow.start))
                    assert captions([first, *rest]) == whole[number:]
            else:
                assert captions([first, *again]) == whole[number:]


def test_reading_continues_in_webdataset_shards(tmp_path):
    dataset = uneven_shards(tmp_path, "webdataset").dataset
    blocks = list(blocks_of_pass(dataset, 0, 0, 4))
    assert sum(len(block.records) for block in blocks) == 22
    for number, block in enumerate(blocks):
        again = list(blocks_of_pass(dataset, 0, 0, 4, through_text(block.start)))
        assert [block.records for block in again] == [block.records for block in blocks[number:]]


def plain_stream(shards, shuffle_buffer, read=None):
    """Return a stream of generated rows; ``read`` lists the rows that are generated."""

    def rows(shards):
        for record in rows_of_shards(shards):
            if read is not None:
                read.append(record["caption"])
            yield record

    dataset = datasets.IterableDataset.from_generator(rows, gen_kwargs={"shards": list(enumerate(shards))})
    to_sample = lambda record, number: Sample(str(number), None, None, record["caption"], [])  # noqa: E731
    return SampleStream(dataset, to_sample, shuffle_buffer)


def test_every_batch_after_a_bookmark_is_that_of_an_uninterrupted_run():
    """Enumerates stops over three passes, with another number of ranks after each."""
    stream = plain_stream((12, 7, 3, 9), shuffle_buffer=8)  # 31 rows a pass
    for batch_size, read_ahead in ((4, 0), (4, 5), (9, 2)):
        sampler = StreamSampler(stream, batch_size, 0, read_ahead=read_ahead)
        taken = iter(sampler)
        whole, num_batches = [], 93 // batch_size
        for number in range(num_batches):
            whole.append(next(taken).samples)
            if number < read_ahead:
                continue
            batch = number - read_ahead  # the last one that was trained on
            bookmark = sampler.bookmark_before(batch)
            assert batch * batch_size - bookmark.rows_before <= 8 + 4  # a block
            stored = position_to_save(stream, 0, bookmark)
            same, bookmark = saved_position(stream, 0, torch_round_trip(stored))
            ranks = 1 + number % 3
            parts = [iter(StreamSampler(same, batch_size, 0, rank, ranks, batch, bookmark)) for rank in range(ranks)]
            for offset in range(batch, number + 1):
                assert [pair for part in parts for pair in next(part).samples] == whole[offset]


def torch_round_trip(state):
    """Return what a checkpoint gives back; it is read with ``weights_only=True``."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_a_resumed_stream_reads_a_block_and_the_open_shards():
    read = []
    stream = plain_stream((100,) * 80, shuffle_buffer=50, read=read)
    sampler = StreamSampler(stream, 10, 0)
    whole = list(itertools.islice(sampler, 701))  # of 8000 rows
    bookmark = sampler.bookmark_before(700)
    read.clear()
    resumed = StreamSampler(stream, 10, 0, start=700, bookmark=bookmark)
    assert next(iter(resumed)) == whole[700]
    assert len(read) <= 10 * 100 + 3 * 50  # ten open shards from their beginnings, a block and what threads read ahead
    read.clear()
    assert next(iter(StreamSampler(stream, 10, 0, start=700))) == whole[700]  # without a bookmark
    assert len(read) >= 7000


def test_a_stream_with_other_records_is_read_from_its_start(tmp_path, caplog):
    stream = uneven_shards(tmp_path, "parquet")
    sampler = StreamSampler(stream, 4, 0)
    list(itertools.islice(sampler, 5))
    bookmark = sampler.bookmark_before(4)
    assert bookmark.start.row > 0
    for shard in range(3):
        path = tmp_path / f"{shard}.parquet"
        table = pq.read_table(path)
        names = pa.array([f"new {name}" for name in table["caption"].to_pylist()])
        pq.write_table(table.set_column(1, "caption", names), path, row_group_size=2)
    with pytest.raises(ChangedStreamError):
        next(stream.blocks(0, bookmark.start.epoch, bookmark.start))
    with caplog.at_level(logging.WARNING, "degla.data.loading"):
        again = next(iter(StreamSampler(stream, 4, 0, start=4, bookmark=bookmark)))
    assert "the stream has other records than at the checkpoint" in caplog.text
    assert again == next(iter(StreamSampler(stream, 4, 0, start=4)))


def test_other_shards_or_another_buffer_give_no_bookmark(caplog):
    stream = plain_stream((5, 5, 5), shuffle_buffer=4)
    sampler = StreamSampler(stream, 2, 0)
    list(itertools.islice(sampler, 5))
    stored = position_to_save(stream, 0, sampler.bookmark_before(4))
    assert isinstance(saved_position(stream, 0, stored)[1], StreamBookmark)
    for other in (plain_stream((5, 5), 4), plain_stream((5, 5, 5), 3)):
        assert saved_position(other, 0, stored) == (other, None)
    assert saved_position(stream, 1, stored) == (stream, None)
    assert "its order is another one" in caplog.text


def test_a_state_that_is_not_plain_data_is_not_saved():
    start = BlockStart(0, 0, 0, 0, [None], 1, 0)._replace(next_shard=torch.zeros(()))
    stream = plain_stream((5,), 4)
    stored = position_to_save(stream, 0, StreamBookmark(0, start))
    assert stored["bookmark"] is None and saved_position(stream, 0, stored) == (stream, None)


def test_a_run_of_degla_0_1_keeps_its_order():
    """Such a run shuffled with ``datasets``; its checkpoints hold no position."""
    stream = plain_stream((5, 4, 6), shuffle_buffer=4)
    earlier, bookmark = saved_position(stream, 0, None)
    assert bookmark is None
    shuffled = stream.dataset.shuffle(seed=0, buffer_size=4)
    expected = [record["caption"] for record in shuffled]
    sampler = StreamSampler(earlier, 5, 0)
    read = [sample.caption for share in itertools.islice(sampler, 3) for sample, _ in share.samples]
    assert read == expected
    resumed = StreamSampler(earlier, 5, 0, start=2)
    assert [sample.caption for sample, _ in next(iter(resumed)).samples] == expected[10:]
    stored = position_to_save(earlier, 0, sampler.bookmark_before(2))
    assert saved_position(stream, 0, stored)[0].earlier_order  # also after the next checkpoint
    assert not saved_position(stream, 0, position_to_save(stream, 0, None))[0].earlier_order
