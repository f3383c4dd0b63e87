"""Time how long a stream takes to give its first batch, from its start, and resumed with and without a position.

    python benchmarks/resume_stream.py --rows 1000000

The shards are Parquet files of rows with a small image. Only reading is timed: no batch is decoded.
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from record import save

from degla.data.loading import StreamSampler
from degla.data.sources import SampleStream, huggingface
from degla.data.stream_position import position_to_save, saved_position


def main() -> None:
    """Measure and save the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--image-bytes", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--position", type=float, default=0.9, help="share of the first pass before the checkpoint")
    parser.add_argument("--note", default="", help="what else the machine did; part of the record")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), arguments)
        stream = huggingface("parquet", data_files=f"{folder}/*.parquet", negatives=None, streaming=True)
        assert isinstance(stream, SampleStream)
        figures = measure(stream, arguments)
    save("resume_stream", vars(arguments), figures)


def write_shards(folder: Path, arguments: argparse.Namespace) -> None:
    """Write the rows in Parquet files of equal size, with row groups of 1000 rows."""
    rows = arguments.rows // arguments.shards
    image = {"bytes": bytes(arguments.image_bytes), "path": None}
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    for shard in range(arguments.shards):
        captions = [f"row {number} of shard {shard}" for number in range(rows)]
        table = pa.table({"image": pa.array([image] * rows, kind), "caption": captions})
        pq.write_table(table, folder / f"{shard:04d}.parquet", row_group_size=1000)


def measure(stream: SampleStream, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return seconds until the first batch."""
    batch = int(arguments.rows * arguments.position) // arguments.batch_size
    started = time.perf_counter()
    sampler = StreamSampler(stream, arguments.batch_size, seed=0)
    shares = iter(sampler)
    next(shares)
    first = time.perf_counter() - started
    expected = next(itertools.islice(shares, batch - 1, None))
    until_position = time.perf_counter() - started
    saved = position_to_save(stream, 0, sampler.bookmark_before(batch))
    seconds = {}
    for name, state in (("with_position", saved), ("without_position", {**saved, "bookmark": None})):
        started = time.perf_counter()
        same, bookmark = saved_position(stream, 0, state)
        resumed = next(iter(StreamSampler(same, arguments.batch_size, 0, start=batch, bookmark=bookmark)))
        seconds[name] = time.perf_counter() - started
        assert resumed == expected
    return {
        "batch": batch,
        "first_batch_seconds": first,
        "rows_a_second": batch * arguments.batch_size / until_position,
        "resume_seconds": seconds,
        "position_bytes": len(str(saved)),
    }


if __name__ == "__main__":
    main()
