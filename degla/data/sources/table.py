"""Rows by number from a memory-mapped table, or one after the other from a stream."""

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import datasets
from datasets.distributed import split_dataset_by_node

from degla.data.schema import TABLE_FEATURES, Negative, Sample, parse_negatives
from degla.errors import DataError


class SampleTable:
    """Random access to the rows of a ``datasets.Dataset``.

    Args:
        dataset: memory-mapped table.
        to_row: makes a ``Sample`` of a record and its number.
        image_columns: columns that hold nothing but images.
        cache_dir: where tables made from this one are kept; None is the ``datasets`` default.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        to_row: Callable[[dict, int], Sample],
        image_columns: Iterable[str] = ("image",),
        cache_dir: str | None = None,
    ):
        self.dataset = dataset
        self.to_row = to_row
        self.image_columns = list(image_columns)
        self.cache_dir = cache_dir

    def __len__(self) -> int:
        return len(self.dataset)

    def samples(self, indices: list[int]) -> list[Sample]:
        """The rows at ``indices``, images undecoded."""
        return self._rows(self.dataset, indices)

    def texts(self, indices: Sequence[int]) -> list[Sample]:
        """The same without images, whose bytes are not read."""
        return self._rows(self.dataset.remove_columns(self.image_columns), list(indices))

    def _rows(self, dataset: datasets.Dataset, indices: list[int]) -> list[Sample]:
        return [self.to_row(record, i) for record, i in zip(dataset.__getitems__(indices), indices, strict=True)]


class SampleStream:
    """Rows in a shuffled, endlessly repeatable order from a ``datasets.IterableDataset``.

    Args:
        dataset: streamed table, images undecoded.
        to_row: makes a ``Sample`` of a record and its number in the stream.
        shuffle_buffer: rows held for shuffling.
    """

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        to_row: Callable[[dict, int], Sample],
        shuffle_buffer: int = 1000,
    ):
        self.dataset = dataset
        self.to_row = to_row
        self.shuffle_buffer = shuffle_buffer

    def samples(self, seed: int, epoch: int, rank: int, world_size: int) -> Iterator[Sample]:
        """One pass over this rank's (and DataLoader worker's) share of the rows.

        Raises:
            DataError: a shard cannot be read; which, the ``datasets`` library has logged.
        """
        part = self.dataset.shuffle(seed=seed, buffer_size=self.shuffle_buffer)
        part = split_dataset_by_node(part, rank, world_size)
        part.set_epoch(epoch)
        records = iter(part)
        for number in itertools.count():
            try:
                record = next(records)
            except StopIteration:
                return
            except Exception as error:
                raise DataError(
                    f"a shard of the stream cannot be read ({type(error).__name__}: {str(error)[:200]}); the "
                    "line above names it: repair it, or leave it out of data.data_files"
                ) from error
            yield self.to_row(record, number)


def build_table(
    records: Callable[..., Iterator[dict]], *files: Path, cache_dir: str | None, **arguments
) -> SampleTable:
    """Write the records of ``records(**arguments)`` to an Arrow file once, and map it into memory.

    Args:
        records: generator of dictionaries in the shape of ``TABLE_FEATURES``.
        files: what the records depend on; a changed size or time makes a new table.
        cache_dir: where tables are kept; None is the ``datasets`` default.
        arguments: plain values, part of the table's identity.
    """
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = datasets.Dataset.from_generator(
            _generate,
            features=TABLE_FEATURES,
            cache_dir=cache_dir,
            # Not a list: `datasets` would take a list for shards.
            gen_kwargs={"records": records, "arguments": arguments, "stamps": str(stamps)},
        )
    return SampleTable(dataset, table_row, cache_dir=cache_dir)


def _generate(records, arguments: dict, stamps: str) -> Iterator[dict]:
    yield from records(**arguments)


def table_row(record: dict, number: int) -> Sample:
    """A ``Sample`` of a record in the shape of ``TABLE_FEATURES``."""
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
    image: str | bytes | None,
    caption: object,
    negatives: object = None,
    hard_image_rows: list[int] | None = None,
) -> dict:
    """A record of ``TABLE_FEATURES``; what cannot be read becomes its ``problem``, never an exception."""
    problem = ""
    parsed: list[Negative] = []
    try:
        parsed = parse_negatives(negatives)
    except ValueError as error:
        problem = str(error)
    if not image:
        problem = "no image named"
    return {
        "id": row_id,
        "image": {"bytes": image, "path": None} if isinstance(image, bytes) else {"bytes": None, "path": image},
        "caption": caption if isinstance(caption, str) else "" if caption is None else str(caption),
        "negatives": [negative._asdict() for negative in parsed],
        "hard_image_rows": hard_image_rows or [],
        "problem": problem,
    }
