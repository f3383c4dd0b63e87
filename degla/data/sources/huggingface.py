"""The source for data that ``datasets`` loads: hub ids, Parquet, imagefolder, WebDataset; mapped or streamed."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import datasets

from degla.bounds import bounded, one_of, whole
from degla.data.sources import formats
from degla.data.sources.columns import check_columns, read_column
from degla.data.sources.record_samples import Columns, RecordToSample
from degla.data.sources.records import Record
from degla.data.sources.table import CaptionChoice, SampleStream, SampleTable
from degla.errors import ConfigError
from degla.hub import reachable_hub

# `datasets` counts downloads by a request to a remote host, even for local files. Off unless the user asks for it.
if "HF_UPDATE_DOWNLOAD_COUNTS" not in os.environ:
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False

# Builders of `datasets` for local files, and the formats that each of them reads.
_BUILDERS: dict[str, tuple[formats.FileFormat, ...]] = {
    "parquet": (formats.PARQUET,),
    "csv": (formats.CSV, formats.TSV, formats.OTHER_TABLE),
    "json": (formats.JSON_LINES, formats.JSON_LIST, formats.OTHER_TABLE),
    "webdataset": (formats.TAR,),
    "arrow": (formats.ARROW,),
}

_SHARDS_OF_A_FOLDER = 64  # of a `save_to_disk` folder that is streamed


@bounded("data")
def huggingface(
    path: str | None,
    name: str | None = None,
    data_files: str | list[str] | None = None,
    split: str = "train",
    image: str = "image",
    caption: str = "caption",
    negatives: str | None = "negatives",
    further_captions: str | None = None,
    units: str | None = None,
    paraphrases: str | None = None,
    negative_images: str | None = None,
    captions: Annotated[CaptionChoice, one_of(("first", "random"))] = "first",
    image_root: str | None = None,
    streaming: bool = False,
    shuffle_buffer: Annotated[int, whole(1)] = 1000,
    revision: str | None = None,
    cache_dir: str | None = None,
) -> SampleTable | SampleStream:
    """Read a Hugging Face data set; images stay undecoded until our transform decodes them.

    Args:
        path: hub id, folder (also of ``save_to_disk``), or builder (``parquet``, ``csv``, ``json``, ``imagefolder``,
            ``webdataset``).
        name: configuration of the data set.
        data_files: files or patterns for a builder.
        split: the split to read.
        image: column of the image (WebDataset: ``jpg``): bytes, an image or a path. A dot selects a field:
            ``json.image``.
        caption: column of the caption, a text or a list of texts (WebDataset: ``txt`` or ``json.caption``).
        negatives: column of the negatives: one text, a list of texts or of ``{text, type}``, or such a list as JSON
            (WebDataset: ``json.negatives``); None if there are none.
        further_captions: column of more captions of the image, one text or a list of texts; None if there are none.
        units: column of ``{text, foil}`` objects: parts of the caption, each with a false version; None if there are
            none.
        paraphrases: column of other wordings of the caption, one text or a list of texts; None if there are none.
        negative_images: column of images of which the caption is false, one or a list; None if there are none.
        captions: which caption a step uses if an image has several: the ``first``, or a ``random`` one in each pass.
            Validation uses all of them.
        image_root: folder to which paths in the image column are relative.
        streaming: read shards in sequence instead of mapping a table; for data larger than the disk.
        shuffle_buffer: samples held for shuffling a stream.
        revision: commit or tag on the hub; pin it for results that can be reproduced.
        cache_dir: folder of the data; None is the default of ``datasets``.

    Raises:
        ConfigError: not found, not reachable, a column missing or of the wrong type, or a file of another source.
    """
    if path is None:
        raise ConfigError("data.path is not set: set it to a hub id, a folder, or a builder such as parquet")
    if image_root is not None and not Path(image_root).expanduser().is_dir():
        raise ConfigError(f"data.image_root: there is no folder {image_root}; set it to the folder of the images")
    _refuse_files_of_other_sources(path, data_files)
    dataset = _load(path, name, data_files, split, streaming, revision, cache_dir)
    names = dataset.column_names or list(next(iter(dataset)))
    columns = Columns(image, caption, negatives, further_captions, units, paraphrases, negative_images)
    check_columns(path, names, dataset.features, columns._asdict())
    dataset = _undecoded(dataset, names)
    to_sample = RecordToSample(path, columns, image_root)
    _refuse_images_out_of_reach(dataset, image, image_root)
    if streaming:
        return SampleStream(dataset, to_sample, shuffle_buffer, captions)
    further = [f"{key}={name}" for key, name in columns.further().items()]
    return SampleTable(
        dataset,
        to_sample,
        columns.of_images(),
        cache_dir,
        captions,
        text_columns=" ".join([f"{caption} {negatives}", *further]),
        optional_columns=columns.optional(),
        image_name=image if image_root is None else f"{image} below {image_root}",
    )


def _undecoded(dataset: Any, names: list[str]) -> Any:
    """Return a data set whose images are read as bytes or paths, also in columns that no setting names."""
    for name in names:
        kind = (dataset.features or {}).get(name)
        if isinstance(kind, datasets.Image):
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
        elif isinstance(kind, datasets.List | datasets.LargeList) and isinstance(kind.feature, datasets.Image):
            dataset = dataset.cast_column(name, type(kind)(datasets.Image(decode=False)))
    return dataset


def _load(
    path: str,
    name: str | None,
    data_files: str | list[str] | None,
    split: str,
    streaming: bool,
    revision: str | None,
    cache_dir: str | None,
) -> Any:
    """Return a ``datasets.Dataset``, or an ``IterableDataset`` if ``streaming``."""
    folder = Path(path).expanduser()
    is_local = folder.is_dir() or (path in _BUILDERS and not any("://" in file for file in _listed(data_files)))
    try:
        if folder.is_dir() and formats.sniff(folder) == formats.SAVED_DATASET:
            return _load_from_disk(folder, split, streaming)
        is_image_folder = folder.is_dir() and any(folder.glob("**/metadata.*"))
        # A local data set needs no hub, so the hub is not even looked up.
        with contextlib.nullcontext() if is_local else reachable_hub():
            return datasets.load_dataset(
                "imagefolder" if is_image_folder else path,
                data_dir=path if is_image_folder else None,
                name=name,
                data_files=data_files,
                split=split,
                streaming=streaming,
                revision=revision,
                cache_dir=cache_dir,
            )
    except ConfigError:
        raise
    except Exception as error:  # the library and its file systems raise dozens of types
        first_line = str(error).splitlines()[0] if str(error) else ""
        raise ConfigError(
            f"data.path={path} cannot be loaded ({type(error).__name__}: {first_line}); see docs/data.md"
        ) from error


def _load_from_disk(folder: Path, split: str, streaming: bool) -> Any:
    content = datasets.load_from_disk(str(folder))
    if isinstance(content, datasets.DatasetDict):
        if split not in content:
            raise ConfigError(f"data.split={split} is not in {folder}: set it to one of {', '.join(content)}")
        content = content[split]
    content = content.with_format(None)
    if streaming:
        return content.to_iterable_dataset(num_shards=max(1, min(_SHARDS_OF_A_FOLDER, len(content))))
    return content


def _listed(data_files: str | list[str] | None) -> list[str]:
    return [data_files] if isinstance(data_files, str) else list(data_files or [])


def _refuse_files_of_other_sources(path: str, data_files: str | list[str] | None) -> None:
    file = Path(path).expanduser()
    if file.is_file():
        raise formats.sniff(file).refusal(file, "data.path")
    if path in _BUILDERS:
        for name in _listed(data_files):
            if Path(name).expanduser().is_file():  # a pattern or an address is left to `datasets`
                formats.require(Path(name).expanduser(), _BUILDERS[path], "data.data_files")


def _refuse_images_out_of_reach(dataset: Iterable[Record], image: str, image_root: str | None) -> None:
    """Look at the first record, because paths that lead nowhere would make every sample a bad one."""
    value = read_column(next(iter(dataset), {}), image)
    path = value.get("path") if isinstance(value, dict) and not value.get("bytes") else value
    if not isinstance(path, str) or not path:
        return
    if path.startswith(("http://", "https://")):
        raise ConfigError(
            f"data.image={image} holds web addresses such as {path}: download the images first (img2dataset writes "
            "WebDataset shards, which data.path=webdataset reads)"
        )
    if image_root is None and not Path(path).is_absolute() and "://" not in path and not Path(path).exists():
        raise ConfigError(
            f"data.image={image} holds relative paths such as {path}: set data.image_root to the folder of the images"
        )
