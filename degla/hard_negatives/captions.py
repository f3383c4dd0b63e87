"""Anyone's captions: CSV, TSV, JSON lines, Parquet, plain text, COCO's, the authors' and NegCLIP's files."""

import ast
import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from degla.data.schema import Negative, parse_negatives
from degla.data.sources.annotations import read_records
from degla.errors import ConfigError

_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".json", ".txt")


class Captioned(NamedTuple):
    """A row of the input."""

    id: str  # file and row, as reports name it
    image: Any  # a path, Parquet's struct of bytes and path, or None
    caption: str
    negatives: list[Negative]  # that the input has already
    problem: str = ""  # why the row cannot be used


def read_captions(file: str | None, caption: str = "caption", image: str = "image") -> Iterator[Captioned]:
    """The rows of a file, one after the other; a bad one carries its problem.

    Args:
        file: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` with columns; ``.txt`` with a caption a line, or as CSV;
            ``.json`` as COCO's ``captions_*.json`` or the authors' list of ``image_id, original, enhanced``. NegCLIP's
            TSV is known by its columns.
        caption: column.
        image: column.

    Raises:
        ConfigError: not set, missing, of another kind, or without the column.
    """
    if file is None:
        raise ConfigError(f"input is not set: a file of captions ({', '.join(_SUFFIXES)}; docs/negatives.md)")
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"input: there is no file {file}")
    if path.suffix not in _SUFFIXES:
        raise ConfigError(f"input: {path.name} ends in none of {', '.join(_SUFFIXES)}")
    first = True
    for number, record in _records(path, caption):
        row = f"{path.name}:{number}"
        if isinstance(record, str):
            yield Captioned(row, None, "", [], record)
            continue
        if "title" in record and "neg_caption" in record:
            record = {"image": record.get("filepath"), "caption": record["title"], **_listed(record["neg_caption"])}
        elif first and caption not in record:
            raise ConfigError(
                f"input: {path.name} has no column {caption!r}, only {', '.join(map(str, record))}: set caption"
            )
        first = False
        yield _captioned(row, record, caption, image)


def image_type(file: str, image: str = "image") -> pa.DataType:
    """Of the column of images: Parquet's struct of bytes and path where the input has one, else text."""
    if Path(file).suffix == ".parquet":
        schema = pq.read_schema(file)
        if image in schema.names and pa.types.is_struct(schema.field(image).type):
            return schema.field(image).type
    return pa.string()


def in_shard(caption: str, shard: tuple[int, int]) -> bool:
    """Whether a caption belongs to shard ``(i, n)``; equal captions belong together."""
    number, of = shard
    return int.from_bytes(hashlib.sha256(caption.encode(errors="replace")).digest()[:8], "big") % of == number


def parse_shard(text: str | None) -> tuple[int, int]:
    """``i/n`` with 0 <= i < n; None is the whole.

    Raises:
        ConfigError: anything else.
    """
    if text is None:
        return 0, 1
    number, _, of = str(text).partition("/")
    if not (number.isdigit() and of.isdigit() and int(number) < int(of)):
        raise ConfigError(f"shard={text} is not of the form i/n with i from 0 to n-1, such as 0/8")
    return int(number), int(of)


def _captioned(row: str, record: dict, caption: str, image: str) -> Captioned:
    text, picture = record.get(caption), record.get(image)
    if picture is not None and not isinstance(picture, dict):
        picture = str(picture)  # a number is a name as well
    if not isinstance(text, str) or not text.strip():
        return Captioned(row, picture or None, "", [], "empty caption")
    negatives = record.get("negatives")
    if negatives is None:
        columns = sorted(key for key in record if str(key).startswith("negative"))
        negatives = [record[key] for key in columns if record[key]]
    try:
        return Captioned(row, picture or None, " ".join(text.split()), parse_negatives(negatives))
    except ValueError as error:
        return Captioned(row, picture or None, " ".join(text.split()), [], str(error))


def _records(path: Path, caption: str) -> Iterator[tuple[int, dict | str]]:
    if path.suffix == ".txt":
        yield from _text_records(path, caption)
    elif path.suffix == ".json":
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
    else:
        yield from read_records(path)


def _text_records(path: Path, caption: str) -> Iterator[tuple[int, dict]]:
    """A caption a line, or what Flickr8k calls ``captions.txt``: a CSV with a header."""
    with path.open(encoding="utf-8", newline="") as lines:
        header = next(lines, "").strip().split(",")
        lines.seek(0)
        if caption in header and len(header) > 1:
            yield from enumerate(csv.DictReader(lines), 1)
        else:
            yield from ((number, {caption: line.strip()}) for number, line in enumerate(lines, 1) if line.strip())


def _listed(text: str) -> dict:
    try:
        return {"negatives": ast.literal_eval(text)}
    except (ValueError, SyntaxError):
        return {"negatives": 0}  # refused by name further on
