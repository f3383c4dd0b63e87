"""Sources that name their images in an annotation file: a folder of your own, the authors' JSON, NegCLIP's TSV."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from degla.data.extra_columns import extra_columns
from degla.data.schema import describe, negatives_of_record
from degla.data.sources import formats
from degla.data.sources.records import Record, read_columns, read_json_list, read_records
from degla.data.sources.table import SampleTable, bad_record, build_table, table_record
from degla.errors import ConfigError

_SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")  # files that `folder` finds without `annotations`
_NAMED_SUFFIXES = (*_SUFFIXES, ".json")  # files that `folder` reads if `annotations` names them
_TABLES = (
    *(formats.CSV, formats.TSV, formats.JSON_LINES, formats.PARQUET, formats.JSON_LIST),
    formats.OTHER_TABLE,  # refused later, with the name of the missing column
)
_NUM_NAMED = 20  # columns that a message lists
_DEGLA_PAGE = "https://huggingface.co/datasets/wsdwJohn1231/DeGLA"
_COCO_PAGE = "https://cocodataset.org/#download"
_NEGCLIP_PAGE = "https://github.com/mertyg/vision-language-models-are-bows"


def folder(
    path: str | None,
    annotations: str | None = None,
    image_root: str | None = None,
    cache_dir: str | None = None,
) -> SampleTable:
    """Read images in a folder with one annotation file: CSV, TSV, JSON lines, a JSON list or Parquet.

    Columns: ``image`` (path relative to ``image_root``; Parquet may hold the bytes instead), ``caption``, and
    ``negatives`` (list of texts or of ``{text, type}``; in CSV as JSON) or ``negative_1``, ``negative_2``, ...
    Some objectives also read ``captions``, ``units``, ``paraphrases`` or ``negative_images`` (docs/data.md).

    Args:
        path: the folder.
        annotations: file name in it; None uses the only annotation file.
        image_root: folder of the images, relative to ``path``; None is ``path`` itself.
        cache_dir: folder of the memory-mapped table; None is the default of ``datasets``.

    Raises:
        ConfigError: folder or file missing, several candidates, a file of another source, or a column missing.
        DataError: rows of a CSV or TSV file do not fit its header.
    """
    if path is not None and Path(path).expanduser().is_file():
        raise formats.sniff(Path(path).expanduser()).refusal(Path(path).expanduser(), "data.path")
    root = _existing_folder(path, "data.path", "the folder with your images and annotation file (docs/data.md)")
    file = root / annotations if annotations else _only_annotation_file(root)
    if not file.is_file():
        raise ConfigError(
            f"data.annotations: there is no file {file}; set it to a file in {root}, or write one with degla-negatives "
            "input=<file of captions>"
        )
    formats.require(file, _TABLES, "data.annotations")
    formats.require_suffix(file, "data.annotations")
    if file.suffix not in _NAMED_SUFFIXES:
        raise ConfigError(
            f"data.annotations: {file.name} must end in {', '.join(_NAMED_SUFFIXES)}; rename it by its format"
        )
    images = root / (image_root or "")
    if not images.is_dir():
        raise ConfigError(f"data.image_root: there is no folder {images}; set it to the folder of the images")
    _check_columns(file, ("image", "caption"))
    return build_table(folder_records, file, cache_dir=cache_dir, file=str(file), images=str(images.resolve()))


def coco(annotations: str | None, image_root: str | None, cache_dir: str | None = None) -> SampleTable:
    """Read the authors' training JSON (items of ``image_id``, ``original``, ``enhanced``) with COCO train2014.

    Args:
        annotations: the JSON file.
        image_root: folder of ``COCO_train2014_<12 digits>.jpg``.
        cache_dir: folder of the memory-mapped table; None is the default of ``datasets``.

    Raises:
        ConfigError: file or folder missing, or a file of another source. The message says what to set, or where to
            download it.
    """
    file = _existing_file(annotations, f"the authors' negatives JSON, from {_DEGLA_PAGE}")
    formats.require(file, (formats.AUTHORS_JSON,), "data.annotations")
    images = _existing_folder(image_root, "data.image_root", f"COCO's train2014 folder, from {_COCO_PAGE}")
    return build_table(authors_records, file, cache_dir=cache_dir, file=str(file), images=str(images.resolve()))


def negclip_tsv(annotations: str | None, image_root: str | None, cache_dir: str | None = None) -> SampleTable:
    """Read NegCLIP's TSV: ``title``, ``filepath``, ``neg_caption``, ``neg_image`` (rows of similar images).

    Args:
        annotations: the TSV file.
        image_root: folder below which ``filepath`` is (the parent of ``coco/``).
        cache_dir: folder of the memory-mapped table; None is the default of ``datasets``.

    Raises:
        ConfigError: file or folder missing, or a file of another source. The message says what to set, or where to
            download it.
        DataError: rows of the file do not fit its header.
    """
    file = _existing_file(annotations, f"NegCLIP's TSV, linked from {_NEGCLIP_PAGE}")
    formats.require(file, (formats.NEGCLIP_TSV,), "data.annotations")
    if file.suffix != ".tsv":
        raise ConfigError(f"data.annotations: {file.name} must end in .tsv; rename it to {file.stem}.tsv")
    images = _existing_folder(image_root, "data.image_root", f"the parent folder of coco/, from {_COCO_PAGE}")
    _check_columns(file, ("title", "filepath", "neg_caption", "neg_image"))
    return build_table(negclip_records, file, cache_dir=cache_dir, file=str(file), images=str(images.resolve()))


def _existing_folder(path: str | None, key: str, purpose: str) -> Path:
    if path is None:
        raise ConfigError(f"{key} is not set: set {key}=/path/to {purpose}")
    if not Path(path).expanduser().is_dir():
        raise ConfigError(f"{key}: there is no folder {path}; set {key}=/path/to {purpose}")
    return Path(path).expanduser()


def _existing_file(path: str | None, purpose: str) -> Path:
    if path is None:
        raise ConfigError(f"data.annotations is not set: set data.annotations=/path/to {purpose}")
    file = Path(path).expanduser()
    if file.is_dir():
        raise formats.sniff(file).refusal(file, "data.annotations")
    if not file.is_file():
        raise ConfigError(f"data.annotations: there is no file {path}; set data.annotations=/path/to {purpose}")
    return file


def _only_annotation_file(root: Path) -> Path:
    if formats.sniff(root) == formats.SAVED_DATASET:
        raise formats.SAVED_DATASET.refusal(root, "data.path")
    files = sorted(file for file in root.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    if len(files) == 1:
        return files[0]
    if not files:
        raise ConfigError(
            f"data.path: {root} holds no annotation file ({', '.join(_SUFFIXES)}); add one (docs/data.md)"
        )
    names = ", ".join(file.name for file in files)
    raise ConfigError(f"data.annotations is not set and {root} holds several files: set it to one of {names}")


def _check_columns(file: Path, needed: tuple[str, ...]) -> None:
    columns = read_columns(file)
    if columns is None:
        raise ConfigError(f"data.annotations: {file} holds no rows that can be read; see docs/data.md for the format")
    for column in needed:
        if column not in columns:
            # A damaged file may have a column name of many lines.
            names = [" ".join(str(name).split())[:40] for name in columns[:_NUM_NAMED]]
            names += ["..."] if len(columns) > _NUM_NAMED else []
            raise ConfigError(
                f"data.annotations: {file.name} has no column {column!r} (it has {', '.join(names)}); rename the column"
            )


def folder_records(file: str, images: str) -> Iterator[Record]:
    """Yield the records of a table with the columns ``image``, ``caption``, those of negatives and the optional ones.

    Args:
        file: the table.
        images: folder to which paths of images are relative.
    """
    name = Path(file).name
    for number, record in read_records(Path(file)):
        row_id = f"{name}:{number}"
        if isinstance(record, str):
            yield bad_record(row_id, record)
            continue
        image = record.get("image")
        if isinstance(image, dict):  # Parquet written by `datasets`
            image = image.get("bytes") or image.get("path")
        if isinstance(image, str) and image:
            image = str(Path(images) / image)
        try:
            negatives = [negative._asdict() for negative in negatives_of_record(record)]
            extra = extra_columns(record, image_root=images)
        except ValueError as error:
            yield bad_record(row_id, str(error))
            continue
        yield table_record(row_id, image, record.get("caption"), negatives, extra=extra)


def authors_records(file: str, images: str) -> Iterator[Record]:
    """Yield the records of the authors' JSON.

    Args:
        file: the JSON file.
        images: folder of COCO train2014.
    """
    name = Path(file).name
    for number, item in enumerate(read_json_list(Path(file))):
        row_id = f"{name}:{number}"
        image_id = item.get("image_id") if isinstance(item, dict) else None
        if not isinstance(item, dict):
            yield bad_record(row_id, f"the item is {describe(item)}, not an object")
        elif isinstance(image_id, bool) or not str(image_id).isdecimal():
            yield bad_record(row_id, f"image_id is {describe(image_id)}, not a whole number")
        else:
            image = f"{images}/COCO_train2014_{int(str(image_id)[:_MAX_ID_DIGITS]):012d}.jpg"
            yield table_record(row_id, image, item.get("original"), item.get("enhanced"))


_MAX_ID_DIGITS = 20  # enough for every image of COCO; Python refuses integers of thousands of digits


def negclip_records(file: str, images: str) -> Iterator[Record]:
    """Yield the records of NegCLIP's TSV.

    Args:
        file: the TSV file.
        images: the parent folder of ``coco/``.
    """
    name = Path(file).name
    for number, record in read_records(Path(file)):
        row_id = f"{name}:{number}"
        if isinstance(record, str):
            yield bad_record(row_id, record)
            continue
        try:
            negatives = _python_list(record, "neg_caption", str)
            similar = _python_list(record, "neg_image", int)
        except ValueError as error:
            yield bad_record(row_id, str(error))
            continue
        if not record["filepath"]:
            yield bad_record(row_id, "no image is named")
            continue
        yield table_record(row_id, f"{images}/{record['filepath']}", record["title"], negatives, similar)


def _python_list(record: Record, column: str, item_type: type) -> list[Any]:
    """Return a list that was written as Python text.

    Raises:
        ValueError: it is not a list of ``item_type``, or a row number is out of range.
    """
    text = record.get(column, "")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"{column} is not a list in Python's notation: {text[:60]!r}") from error
    if not isinstance(value, list) or any(type(item) is not item_type for item in value):
        raise ValueError(f"{column} is {describe(value)}, not a list of {item_type.__name__}")
    if item_type is int and any(not 0 <= item < 2**31 for item in value):
        raise ValueError(f"{column} has a row number below 0 or above {2**31 - 1}")
    return value
