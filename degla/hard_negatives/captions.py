"""Read captions: CSV, TSV, JSON lines, Parquet, plain text, COCO's JSON, the authors' JSON, NegCLIP's TSV."""

import ast
import csv
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from degla.data.schema import Negative, parse_negatives
from degla.data.sources.records import read_records
from degla.errors import ConfigError

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
            negatives = _parse_python_list(record["neg_caption"])
            record = {"image": record.get("filepath"), "caption": record["title"], "negatives": negatives}
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
        ConfigError: the text has another form.
    """
    if text is None:
        return 0, 1
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", str(text))
    if match is None or int(match[1]) >= int(match[2]):
        raise ConfigError(f"shard={text} is not of the form i/n with i from 0 to n-1, such as 0/8")
    return int(match[1]), int(match[2])


def _caption_row(row_id: str, record: dict[str, Any], caption: str, image: str) -> CaptionRow:
    text, image_value = record.get(caption), record.get(image)
    if image_value is not None and not isinstance(image_value, dict):
        image_value = str(image_value)  # a number can be a file name
    if not isinstance(text, str) or not text.strip():
        return CaptionRow(row_id, image_value or None, "", [], "empty caption")
    if len(text) > _MAX_CAPTION:
        return CaptionRow(row_id, image_value or None, "", [], f"caption of more than {_MAX_CAPTION} characters")
    negatives = record.get("negatives")
    if negatives is None:
        columns = sorted(key for key in record if str(key).startswith("negative"))
        negatives = [record[key] for key in columns if record[key]]
    try:
        return CaptionRow(row_id, image_value or None, " ".join(text.split()), parse_negatives(negatives))
    except ValueError as error:
        return CaptionRow(row_id, image_value or None, " ".join(text.split()), [], str(error))


def _records(path: Path, caption: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield row numbers with records. A record that cannot be parsed is its error message."""
    if path.suffix == ".txt":
        yield from _text_records(path, caption)
    elif path.suffix == ".json":
        yield from _json_records(path)
    else:
        yield from read_records(path)


def _text_records(path: Path, caption: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read one caption per line, or a CSV with a header, such as Flickr8k's ``captions.txt``."""
    with path.open(encoding="utf-8", newline="") as lines:
        header = next(lines, "").strip().split(",")
        lines.seek(0)
        if caption in header and len(header) > 1:
            yield from enumerate(csv.DictReader(lines), 1)
        else:
            yield from ((number, {caption: line.strip()}) for number, line in enumerate(lines, 1) if line.strip())


def _json_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read COCO's captions or a list of objects, such as the authors' file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, dict) and "annotations" in content:
        names = {image["id"]: image["file_name"] for image in content.get("images", [])}
        for number, item in enumerate(content["annotations"]):
            yield number, {"image": names.get(item["image_id"]), "caption": item["caption"]}
    elif isinstance(content, list):
        for number, item in enumerate(content):
            if "original" in item:
                name = f"COCO_train2014_{int(item['image_id']):012d}.jpg"
                item = {"image": name, "caption": item["original"], "negatives": item.get("enhanced")}
            yield number, item
    else:
        raise ConfigError(f"input: {path.name} is neither COCO's captions nor a list of objects")


def _parse_python_list(text: str) -> Any:
    """Parse a list in Python's notation. Returns 0, which ``parse_negatives`` refuses, where it is none."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return 0
