"""Whatever the ``datasets`` library loads: hub ids, Parquet, imagefolder, WebDataset; mapped or streamed."""

from pathlib import Path
from typing import Any

import datasets

from degla.data.schema import Sample, parse_negatives
from degla.data.sources.table import Record, SampleStream, SampleTable
from degla.errors import ConfigError
from degla.hub import reachable_hub


def huggingface(
    path: str | None,
    name: str | None = None,
    data_files: str | list[str] | None = None,
    split: str = "train",
    image: str = "image",
    caption: str = "caption",
    negatives: str | None = "negatives",
    streaming: bool = False,
    shuffle_buffer: int = 1000,
    revision: str | None = None,
    cache_dir: str | None = None,
) -> SampleTable | SampleStream:
    """Rows of a Hugging Face dataset, its images undecoded until our transform decodes them.

    Args:
        path: hub id, folder, or builder (``parquet``, ``imagefolder``, ``webdataset``, ``json``).
        name: configuration of the dataset.
        data_files: files or patterns for a builder.
        split: which split.
        image: column of the image (WebDataset: ``jpg``). A dot descends: ``json.image``.
        caption: column of the caption (WebDataset: ``txt`` or ``json.caption``).
        negatives: column of the negatives (WebDataset: ``json.negatives``); None if there are none.
        streaming: read shards one after the other instead of mapping a table; for data beyond the disk.
        shuffle_buffer: rows held for shuffling a stream.
        revision: commit or tag on the hub; pin it for results that can be repeated.
        cache_dir: where the data is kept; None is the ``datasets`` default.

    Raises:
        ConfigError: not found, not reachable, or a column missing.
    """
    if path is None:
        raise ConfigError("data.path is not set: set it to a hub id, a folder, or a builder such as parquet")
    local = {"data_dir": path, "path": "imagefolder"} if _is_image_folder(path) else {"path": path}
    try:
        with reachable_hub():
            dataset = datasets.load_dataset(
                **local,
                name=name,
                data_files=data_files,
                split=split,
                streaming=streaming,
                revision=revision,
                cache_dir=cache_dir,
            )
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else ""
        raise ConfigError(
            f"data.path={path} cannot be loaded ({type(error).__name__}: {first}); see docs/data.md"
        ) from error
    columns = dataset.column_names or list(next(iter(dataset)))
    for key, column in (("image", image), ("caption", caption), ("negatives", negatives)):
        if column is not None and column.split(".")[0] not in columns:
            raise ConfigError(
                f"data.{key}={column} is no column of {path}: set data.{key} to one of {', '.join(columns)}"
            )
    for column in columns:  # also those that nobody reads: `datasets` would decode them too
        if isinstance((dataset.features or {}).get(column), datasets.Image):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
    to_sample = _ToSample(path, image, caption, negatives)
    if streaming:
        return SampleStream(dataset, to_sample, shuffle_buffer)
    texts = {column.split(".")[0] for column in (caption, negatives) if column}
    return SampleTable(dataset, to_sample, {image.split(".")[0]} - texts, cache_dir)


class _ToSample:
    """Picklable, so that DataLoader workers may be spawned."""

    def __init__(self, path: str, image: str, caption: str, negatives: str | None):
        self.path, self.image, self.caption, self.negatives = path, image, caption, negatives

    def __call__(self, record: Record, number: int) -> Sample:
        image = _column(record, self.image) or {}
        if not isinstance(image, dict):
            image = {"bytes": image, "path": None} if isinstance(image, bytes) else {"bytes": None, "path": str(image)}
        row = Sample(
            id=str(record.get("__key__") or f"{self.path}:{number}"),
            image_bytes=image.get("bytes"),
            image_path=image.get("path"),
            caption=str(_column(record, self.caption) or ""),
            negatives=[],
        )
        try:
            return row._replace(negatives=parse_negatives(_column(record, self.negatives)))
        except ValueError as error:
            return row._replace(problem=str(error))


def _column(record: Record, column: str | None) -> Any:
    """A value by dotted name."""
    value: Any = record if column else None
    for part in (column or "").split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _is_image_folder(path: str) -> bool:
    return Path(path).is_dir() and any(Path(path).glob("**/metadata.*"))
