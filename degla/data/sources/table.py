"""Samples by row number from a memory-mapped table, or in sequence from a stream."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from degla.data.cached_table import cached_table
from degla.data.extra_columns import NO_EXTRA_COLUMNS, ExtraColumns
from degla.data.schema import (
    Negative,
    Sample,
    StoredImage,
    Unit,
    image_key,
    list_in_text,
    parse_negatives,
    text_error,
    texts_of,
)
from degla.data.sources.needed import OnlyNeeded, is_needed, unneeded_columns
from degla.data.sources.records import Record
from degla.data.stream_order import Block, BlockStart, blocks_of_pass, unreadable_shard
from degla.errors import DataError

CaptionChoice = Literal["first", "random"]

# The columns of a memory-mapped table. `problem` says why a line of the file could not be read.
TABLE_FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
        "caption": datasets.Value("string"),
        "negatives": datasets.List({"text": datasets.Value("string"), "type": datasets.Value("string")}),
        "hard_image_rows": datasets.List(datasets.Value("int32")),
        "problem": datasets.Value("string"),
        "captions": datasets.List(datasets.Value("string")),
        "units": datasets.List({"text": datasets.Value("string"), "foil": datasets.Value("string")}),
        "paraphrases": datasets.List(datasets.Value("string")),
        "negative_images": datasets.List({"bytes": datasets.Value("binary"), "path": datasets.Value("string")}),
    }
)

# Need of an objective -> the column of a memory-mapped table that holds it.
OPTIONAL_COLUMNS = {
    "negatives": "negatives",
    "second_captions": "captions",
    "units": "units",
    "paraphrases": "paraphrases",
    "negative_images": "negative_images",
}
_DROPPED_IF_EMPTY = ("captions", "units", "paraphrases", "negative_images")


class SampleTable:
    """Random access to the samples of a ``datasets.Dataset``.

    Args:
        dataset: the memory-mapped table.
        to_sample: makes a ``Sample`` of a record and its row number.
        image_columns: columns that hold nothing but images.
        cache_dir: folder for tables made from this one; None is the default of ``datasets``.
        captions: which caption a step uses if a sample has several: ``first`` or ``random``.
        text_columns: which columns the texts come from, where that is a setting; part of the key of cached tokens.
        optional_columns: need of an objective -> the column that is read for it alone.
        image_name: which column the image comes from, where that is a setting; part of the key of cached image ids.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        to_sample: Callable[[Record, int], Sample],
        image_columns: Iterable[str] = ("image",),
        cache_dir: str | None = None,
        captions: CaptionChoice = "first",
        text_columns: str = "",
        optional_columns: Mapping[str, str] | None = None,
        image_name: str = "image",
    ):
        self.dataset = dataset
        self.to_sample = to_sample
        self.image_columns = sorted(set(image_columns) & set(dataset.column_names))
        self.cache_dir = cache_dir
        self.captions: CaptionChoice = captions
        self.text_columns = text_columns
        self.optional_columns = {
            need: column for need, column in (optional_columns or {}).items() if column in dataset.column_names
        }
        self.image_name = image_name

    def reading(self, needs: Collection[str]) -> "SampleTable":
        """Return the table without the columns that ``needs`` do not read; their texts are not tokenized either.

        Args:
            needs: names such as ``negatives`` and ``units``, as ``Collate`` takes them.
        """
        if all(is_needed(need, needs) for need in self.optional_columns):
            return self
        columns = unneeded_columns(self.optional_columns, needs, others=())
        unread = sorted(need for need in self.optional_columns if not is_needed(need, needs))
        return SampleTable(
            self.dataset.remove_columns(columns),
            OnlyNeeded(self.to_sample, needs),
            self.image_columns,
            self.cache_dir,
            self.captions,
            f"{self.text_columns} without {unread}",
            self.optional_columns,
            self.image_name,
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def samples(self, indices: Sequence[int]) -> list[Sample]:
        """Return the samples at ``indices``, images undecoded."""
        return self._read(self.dataset, indices)

    def texts(self, indices: Sequence[int]) -> list[Sample]:
        """Return the samples at ``indices`` without images, whose bytes are not read."""
        return self._read(self.dataset.remove_columns(self.image_columns), indices)

    def texts_of_rows(self, start: int, stop: int) -> list[list[str]]:
        """Return all texts of some rows, in the order of ``texts_of``.

        Args:
            start: the first row.
            stop: the row after the last one.
        """
        columns = set(self.dataset.column_names)
        if not self._is_plain() or columns & {"captions", "units", "paraphrases"}:
            return [texts_of(sample) for sample in self.texts(range(start, stop))]
        # Most tables are read here, a column at a time; samples would take ten times as long.
        rows: pa.Table = self.dataset.with_format("arrow")[start:stop]
        captions = [caption or "" for caption in rows.column("caption").to_pylist()]
        if "negatives" not in columns:
            return [[caption] for caption in captions]
        negatives = rows.column("negatives").combine_chunks()
        counts = pc.fill_null(pc.list_value_length(negatives), 0).to_pylist()
        texts = iter(pc.struct_field(negatives.flatten(), "text").to_pylist())
        return [[caption, *islice(texts, count)] for caption, count in zip(captions, counts, strict=True)]

    def image_keys(self, start: int, stop: int) -> list[str]:
        """Return the identities of the images of some rows, as ``image_key`` gives them.

        Args:
            start: the first row.
            stop: the row after the last one.
        """
        if self._is_plain():
            columns = self.dataset.select_columns(["id", "image"]).with_format("arrow")
            images = columns[start:stop].column("image").combine_chunks()
            if pc.struct_field(images, "bytes").null_count == len(images):
                paths = pc.struct_field(images, "path").to_pylist()
                ids = columns[start:stop].column("id").to_pylist()
                return [path or row_id for path, row_id in zip(paths, ids, strict=True)]
        return [image_key(sample) for sample in self.samples(range(start, stop))]

    def _is_plain(self) -> bool:
        """Return whether the table is one of ``build_table``, whose columns are those of ``TABLE_FEATURES``."""
        to_sample = self.to_sample
        return (to_sample.to_sample if isinstance(to_sample, OnlyNeeded) else to_sample) is table_sample

    def _read(self, dataset: datasets.Dataset, indices: Sequence[int]) -> list[Sample]:
        records = dataset.__getitems__(list(indices))
        return [self.to_sample(record, row) for record, row in zip(records, indices, strict=True)]


class SampleStream:
    """Samples of a ``datasets.IterableDataset`` in a shuffled order that can be repeated.

    Args:
        dataset: the streamed table, images undecoded.
        to_sample: makes a ``Sample`` of a record and its number in the pass.
        shuffle_buffer: samples held for shuffling.
        captions: which caption a step uses if a sample has several: ``first`` or ``random``.
        earlier_order: read in the order of degla 0.1, which ``datasets`` gave. Only runs that began with it need this,
            because reading cannot continue from a position in that order.
    """

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        to_sample: Callable[[Record, int], Sample],
        shuffle_buffer: int = 1000,
        captions: CaptionChoice = "first",
        earlier_order: bool = False,
    ):
        self.dataset = dataset
        self.to_sample = to_sample
        self.shuffle_buffer = shuffle_buffer
        self.captions: CaptionChoice = captions
        self.earlier_order = earlier_order

    def reading(self, needs: Collection[str]) -> "SampleStream":
        """Return the stream without what ``needs`` do not read.

        Args:
            needs: names such as ``negatives`` and ``units``, as ``Collate`` takes them.
        """
        to_sample = OnlyNeeded(self.to_sample, needs)
        return SampleStream(self.dataset, to_sample, self.shuffle_buffer, self.captions, self.earlier_order)

    def in_earlier_order(self) -> "SampleStream":
        """Return the same samples in the order of degla 0.1."""
        return SampleStream(self.dataset, self.to_sample, self.shuffle_buffer, self.captions, earlier_order=True)

    def samples(self, seed: int, epoch: int) -> Iterator[Sample]:
        """Yield one pass over all samples.

        Args:
            seed: of the shuffled order.
            epoch: number of the pass; each has its own order.

        Raises:
            DataError: a shard cannot be read; the ``datasets`` library has logged which one.
        """
        records = (record for block in self.blocks(seed, epoch) for record in block.records)
        for number, record in enumerate(records):
            yield self.to_sample(record, number)

    def blocks(self, seed: int, epoch: int, start: BlockStart | None = None) -> Iterator[Block]:
        """Yield one pass over all records, in the same order in every process and DataLoader worker.

        Args:
            seed: of the shuffled order.
            epoch: number of the pass; each has its own order.
            start: position in the pass from which to continue; None reads from its beginning.

        Raises:
            ChangedStreamError: other records are at ``start`` than when it was saved.
            DataError: a shard cannot be read; the ``datasets`` library has logged which one.
        """
        if self.earlier_order:
            return (Block(None, [record]) for record in self._records_in_earlier_order(seed, epoch))
        return blocks_of_pass(self.dataset, seed, epoch, self.shuffle_buffer, start)

    def _records_in_earlier_order(self, seed: int, epoch: int) -> Iterator[Record]:
        shuffled = self.dataset.shuffle(seed=seed, buffer_size=self.shuffle_buffer)
        shuffled.set_epoch(epoch)
        # Not iter(shuffled): inside a DataLoader worker that yields only the worker's share of the shards.
        batches = shuffled.iter(batch_size=1)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except Exception as error:
                raise unreadable_shard(error) from error
            yield {name: values[0] for name, values in batch.items()}


def build_table(
    records: Callable[..., Iterator[Record]], *files: Path, cache_dir: str | None, **arguments: Any
) -> SampleTable:
    """Write the records of ``records(**arguments)`` to an Arrow file once, and memory-map it.

    Args:
        records: generator of dictionaries in the shape of ``TABLE_FEATURES``.
        files: what the records depend on; a changed size or modification time makes a new table.
        cache_dir: folder for tables; None is the default of ``datasets``.
        arguments: plain values, part of the table's identity.

    Raises:
        DeglaError: what ``records`` raises for the user.
        DataError: there are no records, or the table cannot be written.
    """
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    # A release may read the same lines otherwise, so its version is part of the key.
    code = [version("degla"), list(TABLE_FEATURES), records.__module__, records.__qualname__]
    identity = [*code, sorted(arguments.items()), stamps]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    dataset = cached_table(records(**arguments), TABLE_FEATURES, cache_dir, key)
    if not len(dataset):
        raise DataError(f"{', '.join(map(str, files))} holds no rows; see docs/data.md for the format")
    # A table without such columns keeps the identity that it had before they existed, so its runs can be resumed.
    dataset = dataset.remove_columns([name for name in _DROPPED_IF_EMPTY if not _has_entries(dataset, name)])
    return SampleTable(
        dataset,
        table_sample,
        ("image", "negative_images"),
        cache_dir,
        optional_columns=OPTIONAL_COLUMNS,
    )


def _has_entries(dataset: datasets.Dataset, column: str) -> bool:
    """Return whether any row of a column of lists has an entry."""
    lengths = pc.list_value_length(dataset.data.column(column))
    return bool(pc.any(pc.greater(lengths, 0)).as_py())


def table_sample(record: Record, number: int) -> Sample:
    """Make a ``Sample`` of a record in the shape of ``TABLE_FEATURES``.

    Args:
        record: one row of the table; image and optional columns may be left out.
        number: not used; the record has an id.
    """
    image = record.get("image") or {}
    captions = tuple(dict.fromkeys([record["caption"] or "", *(record.get("captions") or [])]))
    return Sample(
        id=record["id"],
        image_bytes=image.get("bytes"),
        image_path=image.get("path"),
        caption=record["caption"] or "",
        negatives=[Negative(item["text"], item["type"]) for item in record.get("negatives") or []],
        hard_image_rows=record["hard_image_rows"] or [],
        problem=record["problem"] or "",
        captions=captions if len(captions) > 1 else (),
        units=[Unit(item["text"], item["foil"]) for item in record.get("units") or []],
        paraphrases=record.get("paraphrases") or [],
        negative_images=[StoredImage(item["bytes"], item["path"]) for item in record.get("negative_images") or []],
    )


def table_record(
    row_id: str,
    image: object,
    caption: object,
    negatives: object = None,
    hard_image_rows: list[int] | None = None,
    extra: ExtraColumns | None = None,
) -> Record:
    """Make a record of ``TABLE_FEATURES``; a value that cannot be read becomes its ``problem``, not an exception.

    Args:
        row_id: file and line.
        image: absolute path or encoded bytes.
        caption: of the image.
        negatives: what ``parse_negatives`` reads.
        hard_image_rows: rows with a similar image.
        extra: the other columns, already parsed.
    """
    try:
        parsed = parse_negatives(negatives)
    except ValueError as error:
        return bad_record(row_id, str(error))
    if not image:
        return bad_record(row_id, "no image is named")
    if not isinstance(image, bytes) and (error_text := text_error(image)):
        return bad_record(row_id, f"image is {error_text}")
    if caption is not None and (error_text := text_error(caption)):
        return bad_record(row_id, f"caption is {error_text}")
    if isinstance(caption, str) and isinstance(list_in_text(caption), list):
        return bad_record(row_id, "caption is the text of a list; write one row for each caption")
    return {
        "id": row_id,
        "image": {"bytes": image, "path": None} if isinstance(image, bytes) else {"bytes": None, "path": image},
        "caption": caption or "",
        "negatives": [negative._asdict() for negative in parsed],
        "hard_image_rows": hard_image_rows or [],
        "problem": "",
        **_extra_record(extra or NO_EXTRA_COLUMNS),
    }


def _extra_record(extra: ExtraColumns) -> Record:
    return {
        "captions": extra.captions,
        "units": [unit._asdict() for unit in extra.units],
        "paraphrases": extra.paraphrases,
        "negative_images": [{"bytes": image.image_bytes, "path": image.image_path} for image in extra.negative_images],
    }


def bad_record(row_id: str, problem: str) -> Record:
    """Make a record of ``TABLE_FEATURES`` for a line that cannot be used.

    Args:
        row_id: file and line.
        problem: why not.
    """
    return {
        "id": row_id,
        "image": {"bytes": None, "path": None},
        "caption": "",
        "negatives": [],
        "hard_image_rows": [],
        "problem": problem.encode(errors="replace").decode(),  # the problem may quote a lone surrogate
        **_extra_record(NO_EXTRA_COLUMNS),
    }
