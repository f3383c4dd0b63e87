"""Read captions: CSV, TSV, JSON lines, Parquet, plain text, COCO's JSON, the authors' JSON, NegCLIP's TSV."""

import csv
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from degla.data.schema import Negative, describe, negatives_of_record
from degla.data.sources.records import Record, read_records
from degla.errors import ConfigError, DataError

_MAX_CAPTION = 5000  # characters; some checks take quadratic time. CLIP reads about 350
_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".json", ".txt")


class CaptionRow(NamedTuple):
    """One row of the input file."""

    id: str  # file and row number, as reports name it
    image: Any  # a path, Parquet's struct of bytes and path, or None
    caption: str
    negatives: list[Negative]  # those that the input has already
    problem: str = ""  # why the row cannot be used


def read_captions(file: str | None, caption: str = "caption", image: str = "image") -> Iterator[CaptionRow]:
    """Yield the rows of a file.

    A row that cannot be used carries its problem.

    Args:
        file: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` with columns; ``.txt`` with one caption per line, or a CSV
            of that name; ``.json`` in the format of COCO's ``captions_*.json`` or the authors' list of ``image_id,
            original, enhanced``. NegCLIP's TSV is recognized by its columns.
        caption: name of the column of captions.
        image: name of the column of images.

    Raises:
        ConfigError: the file is not set, missing, of another format, or without the column.
    """
    if file is None:
        raise ConfigError(f"input is not set: set it to a file of captions ({', '.join(_SUFFIXES)}; docs/negatives.md)")
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"input: there is no file {file}")
    if path.suffix not in _SUFFIXES:
        raise ConfigError(f"input: {path.name} ends in none of {', '.join(_SUFFIXES)}")
    is_first = True
    for number, record in _records(path, caption):
        row_id = f"{path.name}:{number}"
        if isinstance(record, str):
            yield CaptionRow(row_id, None, "", [], record)
            continue
        if "title" in record and "neg_caption" in record:  # NegCLIP's TSV
            record = {
                image: record.get("filepath"),
                caption: record["title"],
                "negatives": record["neg_caption"],
            }
        elif is_first and caption not in record:
            columns = ", ".join(map(str, record))
            raise ConfigError(f"input: {path.name} has no column {caption!r}, only {columns}: set caption")
        is_first = False
        yield _caption_row(row_id, record, caption, image)


def image_type(file: str, image: str = "image") -> pa.DataType:
    """Return the type of the column of images: a struct where a Parquet input holds one, else text.

    Args:
        file: the input file.
        image: name of the column.
    """
    if Path(file).suffix == ".parquet":
        schema = pq.read_schema(file)
        if image in schema.names and pa.types.is_struct(schema.field(image).type):
            return schema.field(image).type
    return pa.string()


def in_shard(caption: str, shard: tuple[int, int]) -> bool:
    """Return whether a caption belongs to shard ``(i, n)``.

    Equal captions belong to the same shard.

    Args:
        caption: the caption.
        shard: index and number of shards.
    """
    index, num_shards = shard
    digest = hashlib.sha256(caption.encode(errors="replace")).digest()
    return int.from_bytes(digest[:8], "big") % num_shards == index


def parse_shard(text: str | None) -> tuple[int, int]:
    """Parse ``i/n`` with 0 <= i < n.

    None is the whole input, ``(0, 1)``.

    Raises:
        ConfigError: the text does not have this form.
    """
    if text is None:
        return 0, 1
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", str(text))
    if match is None or int(match[1]) >= int(match[2]):
        raise ConfigError(f"shard={text} is not of the form i/n with i from 0 to n-1, such as 0/8")
    return int(match[1]), int(match[2])


def _caption_row(row_id: str, record: Record, caption: str, image: str) -> CaptionRow:
    image_value = record.get(image)
    if isinstance(image_value, int | float) and not isinstance(image_value, bool):
        image_value = str(image_value)  # a number can be a file name
    if not isinstance(image_value, str | dict | None) or (
        isinstance(image_value, str) and not _is_unicode(image_value)
    ):
        return CaptionRow(row_id, None, "", [], f"the image is {describe(image_value)}, not a path")
    image_value = image_value or None
    text, problem = _caption_text(record.get(caption))
    if problem:
        return CaptionRow(row_id, image_value, "", [], problem)
    try:
        negatives = negatives_of_record(record)
    except ValueError as error:
        return CaptionRow(row_id, image_value, text, [], str(error))
    if not all(_is_unicode(negative.text) and _is_unicode(negative.type) for negative in negatives):
        return CaptionRow(row_id, image_value, text, [], "negatives with characters that are not valid Unicode")
    return CaptionRow(row_id, image_value, text, negatives)


def _caption_text(value: Any) -> tuple[str, str]:
    """Return the caption with single spaces and ""; or "" and the reason why it cannot be used."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return "", "empty caption"
    if not isinstance(value, str):
        return "", f"the caption is {describe(value)}, not a text"
    if len(value) > _MAX_CAPTION:
        return "", f"caption of more than {_MAX_CAPTION} characters"
    if not _is_unicode(value):
        return "", "caption with characters that are not valid Unicode"
    return " ".join(value.split()), ""


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # lone surrogates: from JSON escapes, or from bytes that are not UTF-8
        return False
    return True


def _records(path: Path, caption: str) -> Iterator[tuple[int, Record | str]]:
    """Yield row numbers with records. A record that cannot be parsed is its error message."""
    if path.suffix == ".txt":
        yield from _text_records(path, caption)
    elif path.suffix == ".json":
        yield from _json_records(path)
    else:
        yield from read_records(path)


def _text_records(path: Path, caption: str) -> Iterator[tuple[int, Record | str]]:
    """Read one caption per line, or a CSV with a header, such as Flickr8k's ``captions.txt``.

    Bytes that are not UTF-8 become lone surrogates, so that they make only their own row unusable.
    """
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        header = next(lines, "").strip().split(",")
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        if caption not in header or len(header) < 2:
            yield from ((number, {caption: line.strip()}) for number, line in enumerate(lines, 1) if line.strip())
            return
        reader = csv.DictReader(lines)
        try:
            for number, record in enumerate(reader, 1):
                has_all_fields = None not in record and None not in record.values()
                yield (
                    number,
                    record if has_all_fields else f"the row does not have {len(header)} fields, as the header does",
                )
        except csv.Error as error:
            raise DataError(f"input: {path.name} cannot be read as CSV at line {reader.line_num} ({error})") from error


def _json_records(path: Path) -> Iterator[tuple[int, Record | str]]:
    """Read COCO's captions or a list of objects, such as the authors' file."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"input: {path.name} cannot be read as JSON ({error})") from error
    is_coco = isinstance(content, dict) and isinstance(content.get("annotations"), list)
    items = content["annotations"] if is_coco else content
    if not isinstance(items, list):
        raise ConfigError(f"input: {path.name} is neither COCO's captions nor a list of objects")
    names = _image_names(content) if is_coco else {}
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            yield number, f"the item is {describe(item)}, not an object"
        elif is_coco:
            yield number, {"image": names.get(str(item.get("image_id"))), "caption": item.get("caption")}
        elif "original" in item:
            yield number, _author_record(item)
        else:
            yield number, item


def _image_names(content: Record) -> dict[str, Any]:
    """Return image id -> file name of a file in COCO's format."""
    images = content.get("images")
    records = [image for image in images if isinstance(image, dict)] if isinstance(images, list) else []
    return {str(image.get("id")): image.get("file_name") for image in records}


def _author_record(item: Record) -> Record | str:
    image_id = str(item.get("image_id"))
    if not re.fullmatch(r"[0-9]{1,12}", image_id):
        return f"image_id is {image_id[:60]!r}, not a number of at most 12 digits"
    name = f"COCO_train2014_{image_id.zfill(12)}.jpg"
    return {"image": name, "caption": item["original"], "negatives": item.get("enhanced")}
