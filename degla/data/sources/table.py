"""Samples by row number from a memory-mapped table, or in sequence from a stream."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import datasets
from datasets.exceptions import DatasetGenerationError

from degla.data.schema import Negative, Sample, list_in_text, parse_negatives, text_error
from degla.data.sources.records import Record
from degla.errors import DataError, DeglaError

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
    }
)


class SampleTable:
    """Random access to the samples of a ``datasets.Dataset``.

    Args:
        dataset: the memory-mapped table.
        to_sample: makes a ``Sample`` of a record and its row number.
        image_columns: columns that hold nothing but images.
        cache_dir: folder for tables made from this one; None is the default of ``datasets``.
        captions: which caption a step uses if a sample has several: ``first`` or ``random``.
        text_columns: which columns the texts come from, where that is a setting; part of the key of cached tokens.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        to_sample: Callable[[Record, int], Sample],
        image_columns: Iterable[str] = ("image",),
        cache_dir: str | None = None,
        captions: CaptionChoice = "first",
        text_columns: str = "",
    ):
        self.dataset = dataset
        self.to_sample = to_sample
        self.image_columns = list(image_columns)
        self.cache_dir = cache_dir
        self.captions: CaptionChoice = captions
        self.text_columns = text_columns

    def __len__(self) -> int:
        return len(self.dataset)

    def samples(self, indices: Sequence[int]) -> list[Sample]:
        """Return the samples at ``indices``, images undecoded."""
        return self._read(self.dataset, indices)

    def texts(self, indices: Sequence[int]) -> list[Sample]:
        """Return the samples at ``indices`` without images, whose bytes are not read."""
        return self._read(self.dataset.remove_columns(self.image_columns), indices)

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
    """

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        to_sample: Callable[[Record, int], Sample],
        shuffle_buffer: int = 1000,
        captions: CaptionChoice = "first",
    ):
        self.dataset = dataset
        self.to_sample = to_sample
        self.shuffle_buffer = shuffle_buffer
        self.captions: CaptionChoice = captions

    def samples(self, seed: int, epoch: int) -> Iterator[Sample]:
        """Yield one pass over all samples.

        Args:
            seed: of the shuffled order.
            epoch: number of the pass; each has its own order.

        Raises:
            DataError: a shard cannot be read; the ``datasets`` library has logged which one.
        """
        for number, record in enumerate(self.records(seed, epoch)):
            yield self.to_sample(record, number)

    def records(self, seed: int, epoch: int) -> Iterator[Record]:
        """Yield one pass over all records, in the same order in every process and DataLoader worker.

        Args:
            seed: of the shuffled order.
            epoch: number of the pass; each has its own order.

        Raises:
            DataError: a shard cannot be read; the ``datasets`` library has logged which one.
        """
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
                raise DataError(
                    f"a shard of the stream cannot be read ({type(error).__name__}: {str(error)[:200]}); the "
                    "line above names it: repair it, or leave it out of data.data_files"
                ) from error
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
        DataError: there are no records.
    """
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = datasets.Dataset.from_generator(
                _generate,
                features=TABLE_FEATURES,
                cache_dir=cache_dir,
                # Text, because `datasets` would read a list as a list of shards.
                gen_kwargs={"records": records, "arguments": arguments, "stamps": str(stamps)},
            )
        except DatasetGenerationError as error:
            if isinstance(error.__cause__, DeglaError):  # errors that we raise in `records` are meant for the user
                raise error.__cause__ from None
            raise
        except ValueError as error:
            if "corresponds to no data" not in str(error):  # what `datasets` says of a generator without records
                raise
            raise DataError(f"{', '.join(map(str, files))} holds no rows; see docs/data.md for the format") from error
    return SampleTable(dataset, table_sample, cache_dir=cache_dir)


def _generate(records: Callable[..., Iterator[Record]], arguments: dict[str, Any], stamps: str) -> Iterator[Record]:
    yield from records(**arguments)


def table_sample(record: Record, number: int) -> Sample:
    """Make a ``Sample`` of a record in the shape of ``TABLE_FEATURES``.

    Args:
        record: one row of the table; the image may be left out.
        number: not used; the record has an id.
    """
    image = record.get("image") or {}
    return Sample(
        id=record["id"],
        image_bytes=image.get("bytes"),
        image_path=image.get("path"),
        caption=record["caption"] or "",
        negatives=[Negative(item["text"], item["type"]) for item in record["negatives"] or []],
        hard_image_rows=record["hard_image_rows"] or [],
        problem=record["problem"] or "",
    )


def table_record(
    row_id: str,
    image: object,
    caption: object,
    negatives: object = None,
    hard_image_rows: list[int] | None = None,
) -> Record:
    """Make a record of ``TABLE_FEATURES``; a value that cannot be read becomes its ``problem``, not an exception.

    Args:
        row_id: file and line.
        image: absolute path or encoded bytes.
        caption: of the image.
        negatives: what ``parse_negatives`` reads.
        hard_image_rows: rows with a similar image.
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
    }
