"""Sources that name their images in an annotation file: a folder of one's own, the authors' JSON, NegCLIP's TSV."""

import ast
import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet

from degla.data.sources.table import SampleTable, build_table, table_record
from degla.errors import ConfigError

_SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
_DEGLA_PAGE = "https://huggingface.co/datasets/wsdwJohn1231/DeGLA"
_COCO_PAGE = "https://cocodataset.org/#download"
_NEGCLIP_PAGE = "https://github.com/mertyg/vision-language-models-are-bows"


def folder(
    path: str | None,
    annotations: str | None = None,
    image_root: str | None = None,
    cache_dir: str | None = None,
) -> SampleTable:
    """Images in a folder with one annotation file: CSV, TSV, JSON lines or Parquet.

    Columns: ``image`` (path relative to ``image_root``; Parquet may hold the bytes instead), ``caption``,
    ``negatives`` (list of strings or of ``{text, type}``; in CSV as JSON, or one a column: ``negative_1``, ...).

    Args:
        path: the folder.
        annotations: file name in it; None takes the only annotation file there is.
        image_root: folder of the images, relative to ``path``; None is ``path`` itself.
        cache_dir: where the memory-mapped table is kept.

    Raises:
        ConfigError: folder or file missing, several candidates, or a column missing.
    """
    root = _existing_folder(path, "data.path", "the folder with your images and annotation file (docs/data.md)")
    file = root / annotations if annotations else _only_annotation_file(root)
    if not file.is_file():
        raise ConfigError(f"data.annotations: there is no file {file}; set it to a file in {root}")
    if file.suffix not in _SUFFIXES:
        raise ConfigError(f"data.annotations: {file.name} ends in none of {', '.join(_SUFFIXES)}")
    images = root / (image_root or "")
    if not images.is_dir():
        raise ConfigError(f"data.image_root: there is no folder {images}")
    _check_columns(file)
    return build_table(_folder_records, file, cache_dir=cache_dir, file=str(file), images=str(images.resolve()))


def coco(annotations: str | None, image_root: str | None, cache_dir: str | None = None) -> SampleTable:
    """The authors' training JSON (items of ``image_id``, ``original``, ``enhanced``) with COCO train2014.

    Args:
        annotations: the JSON file.
        image_root: folder of ``COCO_train2014_<12 digits>.jpg``.
        cache_dir: where the memory-mapped table is kept.

    Raises:
        ConfigError: file or folder missing; the message names the download page.
    """
    file = _existing_file(annotations, f"the authors' negatives JSON, from {_DEGLA_PAGE}")
    images = _existing_folder(image_root, "data.image_root", f"COCO's train2014 folder, from {_COCO_PAGE}")
    return build_table(_coco_records, file, cache_dir=cache_dir, file=str(file), images=str(images.resolve()))


def negclip_tsv(annotations: str | None, image_root: str | None, cache_dir: str | None = None) -> SampleTable:
    """NegCLIP's TSV: ``title``, ``filepath``, ``neg_caption``, ``neg_image`` (rows of similar images).

    Args:
        annotations: the TSV file.
        image_root: folder below which ``filepath`` lies (the parent of ``coco/``).
        cache_dir: where the memory-mapped table is kept.

    Raises:
        ConfigError: file or folder missing; the message names the download page.
    """
    file = _existing_file(annotations, f"NegCLIP's TSV, linked from {_NEGCLIP_PAGE}")
    images = _existing_folder(image_root, "data.image_root", f"the parent folder of coco/, from {_COCO_PAGE}")
    return build_table(_negclip_records, file, cache_dir=cache_dir, file=str(file), images=str(images.resolve()))


def _existing_folder(path: str | None, key: str, what: str) -> Path:
    if path is None:
        raise ConfigError(f"{key} is not set: set {key}=/path/to {what}")
    if not Path(path).expanduser().is_dir():
        raise ConfigError(f"{key}: there is no folder {path}; set {key}=/path/to {what}")
    return Path(path).expanduser()


def _existing_file(path: str | None, what: str) -> Path:
    if path is None:
        raise ConfigError(f"data.annotations is not set: set data.annotations=/path/to {what}")
    if not Path(path).expanduser().is_file():
        raise ConfigError(f"data.annotations: there is no file {path}; set data.annotations=/path/to {what}")
    return Path(path).expanduser()


def _only_annotation_file(root: Path) -> Path:
    files = sorted(file for file in root.iterdir() if file.suffix in _SUFFIXES)
    if len(files) == 1:
        return files[0]
    if not files:
        raise ConfigError(
            f"data.path: {root} holds no annotation file ({', '.join(_SUFFIXES)}); add one (docs/data.md)"
        )
    names = ", ".join(file.name for file in files)
    raise ConfigError(f"data.annotations is not set and {root} holds several files: set it to one of {names}")


def _check_columns(file: Path) -> None:
    first = next(iter(read_records(file)), None)
    if first is None:
        raise ConfigError(f"data.annotations: {file} holds no rows")
    record = first[1]
    for column in ("image", "caption"):
        if isinstance(record, dict) and column not in record:
            raise ConfigError(
                f"data.annotations: {file.name} has no column {column!r} (it has {', '.join(map(str, record))}); "
                "rename the column"
            )


def _folder_records(file: str, images: str) -> Iterator[dict]:
    name = Path(file).name
    for number, record in read_records(Path(file)):
        row_id = f"{name}:{number}"
        if isinstance(record, str):  # a line that could not be parsed
            yield table_record(row_id, None, "") | {"problem": record}
            continue
        image = record.get("image")
        if isinstance(image, dict):  # Parquet written by `datasets`
            image = image.get("bytes") or image.get("path")
        if isinstance(image, str) and image:
            image = str(Path(images) / image)
        negatives = record.get("negatives")
        if negatives is None:
            negatives = [
                record[key] for key in sorted(record, key=str) if str(key).startswith("negative") and record[key]
            ]
        yield table_record(row_id, image, record.get("caption"), negatives)


def read_records(file: Path) -> Iterator[tuple[int, dict | str]]:
    """Line or row numbers (from 1) with records; a record that cannot be parsed is its error message."""
    if file.suffix == ".jsonl":
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    yield number, f"not JSON: {error}"
                    continue
                yield number, record if isinstance(record, dict) else f"not an object: {line[:60]!r}"
    elif file.suffix == ".parquet":
        number = 0
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(1000):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    else:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, delimiter="\t" if file.suffix == ".tsv" else ",")
            for record in reader:
                yield reader.line_num, record


def _coco_records(file: str, images: str) -> Iterator[dict]:
    name = Path(file).name
    for number, item in enumerate(json.loads(Path(file).read_text(encoding="utf-8-sig"))):
        image = f"{images}/COCO_train2014_{int(item['image_id']):012d}.jpg"
        yield table_record(f"{name}:{number}", image, item["original"], item["enhanced"])


def _negclip_records(file: str, images: str) -> Iterator[dict]:
    name = Path(file).name
    for number, record in read_records(Path(file)):
        try:
            negatives = ast.literal_eval(record["neg_caption"])
            similar = ast.literal_eval(record["neg_image"])
        except (ValueError, SyntaxError, KeyError) as error:
            yield table_record(f"{name}:{number}", None, "") | {"problem": f"unreadable list: {error}"}
            continue
        image = f"{images}/{record['filepath']}"
        yield table_record(f"{name}:{number}", image, record["title"], negatives, similar)
