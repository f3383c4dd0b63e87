"""Records of CSV, TSV, JSON lines, JSON and Parquet files, tolerant of bad lines.

A line that cannot be read becomes an error message in place of its record, so that one bad line does not end a run.
A file whose rows may have been read wrongly as a whole is refused: a comma without quotes would silently truncate
captions, and a quote that is not closed would swallow rows.
"""

import codecs
import csv
import io
import json
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet

from degla.errors import ConfigError, DataError

Record = dict[str, Any]  # one row of a file: column -> value

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_MAX_LINE = 2**24  # bytes; a longer line is not a caption
_MAX_LINES_PER_ROW = 50  # of a quoted field with line breaks
_NUM_NAMED = 5  # line numbers that a message lists
_MAX_DIGITS = 300  # Python refuses to parse integers of more than 4300 digits


class _Row(NamedTuple):
    """One row of a CSV file."""

    line: int  # its first one
    fields: list[str]
    problem: str  # why the row cannot be read; "" if it can
    is_doubtful: bool = False  # the row is a sign that the file as a whole is read wrongly


def read_records(file: Path) -> Iterator[tuple[int, Record | str]]:
    """Yield the records of a file with their line numbers.

    The suffix decides: ``.csv``, ``.tsv``, ``.jsonl``, ``.json`` (a list of objects) or ``.parquet``.

    Args:
        file: the table.

    Yields:
        Line or row number from 1 (in a JSON list from 0) and the record; or an error message in place of a record
        that cannot be read.

    Raises:
        ConfigError: the file as a whole is not of its format, or its columns have duplicate names.
        DataError: rows of a CSV or TSV file do not fit its header; the message has line numbers.
    """
    if file.suffix == ".jsonl":
        for number, line in _byte_lines(file):
            if isinstance(line, str):
                yield number, line
            elif line.strip():
                yield number, _json_object(line)
    elif file.suffix == ".json":
        for number, item in enumerate(read_json_list(file)):
            yield number, item if isinstance(item, dict) else f"not an object: {str(item)[:60]!r}"
    elif file.suffix == ".parquet":
        yield from _parquet_records(file)
    else:
        _refuse_doubtful_rows(file)
        columns = read_columns(file) or []
        for row in _csv_rows(file):
            yield row.line, row.problem or dict(zip(columns, row.fields, strict=False))


def read_columns(file: Path) -> list[str] | None:
    """Return the columns of a file: its header, its schema, or the keys of its first record.

    Args:
        file: the table.

    Returns:
        None if there is no record that can be read.

    Raises:
        ConfigError: the file as a whole is not of its format, or its columns have duplicate names.
    """
    if file.suffix == ".parquet":
        return _without_duplicates(_open_parquet(file).schema_arrow.names, file)
    if file.suffix in (".jsonl", ".json"):
        return next((list(record) for _, record in read_records(file) if isinstance(record, dict)), None)
    for _, line in _byte_lines(file):
        if isinstance(line, str) or not line.strip():
            continue
        fields = _parse_csv(line, _DELIMITERS[file.suffix])
        if isinstance(fields, str):
            raise ConfigError(f"the header of {file} cannot be read: {fields}; its first line must name the columns")
        return _without_duplicates(fields, file)
    return None


def read_json_list(file: Path) -> list[Any]:
    """Return the items of a JSON file that holds one list.

    Bytes that are not UTF-8 become lone surrogates, and integers of more than 300 digits become floats. So they make
    one item unusable and not the whole file.

    Args:
        file: the JSON file.

    Raises:
        ConfigError: the file is not JSON, or it does not hold a list.
    """
    text = file.read_bytes().removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="surrogateescape")
    try:
        content = json.loads(text, parse_int=_parse_int)
    except RecursionError as error:
        raise ConfigError(f"{file} is not a JSON list of objects: it is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{file} is damaged: it is not JSON at line {error.lineno}, column {error.colno} ({error.msg}); download "
            "or write it again"
        ) from error
    if not isinstance(content, list):
        raise ConfigError(f"{file} holds a JSON {type(content).__name__}, not a list of objects; see docs/data.md")
    return content


def _parse_int(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


def _byte_lines(file: Path) -> Iterator[tuple[int, bytes | str]]:
    """Yield line numbers from 1 and lines without their ends; a line that is too long is an error message."""
    with file.open("rb") as stream:
        number = 0
        while line := stream.readline(_MAX_LINE):
            number += 1
            if len(line) == _MAX_LINE and not line.endswith(b"\n"):
                while (rest := stream.readline(_MAX_LINE)) and not rest.endswith(b"\n"):
                    pass
                yield number, f"a line of more than {_MAX_LINE} bytes"
                continue
            yield number, (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).rstrip(b"\r\n")


def _json_object(line: bytes) -> Record | str:
    try:
        value = json.loads(line.decode("utf-8"), parse_int=_parse_int)
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start + 1} of the line"
    except RecursionError:
        return "JSON that is nested too deeply"
    except json.JSONDecodeError as error:
        return f"not JSON: {error}"
    return value if isinstance(value, dict) else f"not an object: {line[:60].decode(errors='replace')!r}"


def _parse_csv(text: bytes, delimiter: str) -> list[str] | str:
    """Return the fields of one row, or why it cannot be read."""
    try:
        # Line breaks inside quoted fields are kept, as newline="" does for a file.
        rows = list(csv.reader(io.StringIO(text.decode("utf-8"), newline=""), delimiter=delimiter, strict=True))
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start + 1} of the line"
    except csv.Error as error:
        return str(error)
    return rows[0] if len(rows) == 1 else "a line break in the middle of the line"


_OPEN_QUOTE = "unexpected end of data"  # csv's message for a quoted field that does not end


def _csv_rows(file: Path) -> Iterator[_Row]:
    """Yield the rows below the header."""
    delimiter = _DELIMITERS[file.suffix]
    width = len(read_columns(file) or [])
    waiting: deque[tuple[int, bytes | str]] = deque()  # lines that were read ahead
    lines = _byte_lines(file)
    in_header = True
    while (following := waiting.popleft() if waiting else next(lines, None)) is not None:
        number, line = following
        if isinstance(line, str):
            yield _Row(number, [], line)
            continue
        if not line.strip(b" ") or in_header:
            in_header = in_header and not line.strip()
            continue
        fields = _parse_csv(line, delimiter)
        if fields == _OPEN_QUOTE:
            fields = _several_lines(line, lines, waiting, delimiter, width)
        if fields == _OPEN_QUOTE:
            yield _Row(number, [], "a quote opens a field that does not end", is_doubtful=True)
        elif isinstance(fields, str):
            yield _Row(number, [], f"not a row of a table: {fields}")
        elif len(fields) != width and (len(fields) < width or any(fields[width:])):
            yield _Row(number, fields, f"{len(fields)} fields instead of {width}", is_doubtful=True)
        else:
            yield _Row(number, fields[:width], "")


def _several_lines(
    line: bytes,
    lines: Iterator[tuple[int, bytes | str]],
    waiting: deque[tuple[int, bytes | str]],
    delimiter: str,
    width: int,
) -> list[str] | str:
    """Read further lines after one in which a quoted field does not end.

    A field may contain line breaks. But if a line that it would contain is a row by itself, the quote is treated as
    stray, and all lines after the first stay in ``waiting``.
    """
    text = line
    for count in range(_MAX_LINES_PER_ROW):
        if count == len(waiting):
            following = next(lines, None)
            if following is None:
                return _OPEN_QUOTE
            waiting.append(following)
        part = waiting[count][1]
        if isinstance(part, str):
            return _OPEN_QUOTE
        alone = _parse_csv(part, delimiter)
        if not isinstance(alone, str) and len(alone) == width:
            return _OPEN_QUOTE
        text += b"\n" + part
        fields = _parse_csv(text, delimiter)
        if fields != _OPEN_QUOTE:
            for _ in range(count + 1):
                waiting.popleft()
            return fields
    return _OPEN_QUOTE


def _refuse_doubtful_rows(file: Path) -> None:
    """Read a CSV file once and refuse it if rows do not fit its header."""
    count = 0
    named: list[str] = []
    for row in _csv_rows(file):
        if row.is_doubtful:
            count += 1
            named += [f"line {row.line}: {row.problem}"] if len(named) < _NUM_NAMED else []
    if count:
        named += ["..."] if count > len(named) else []
        raise DataError(
            f"{count} row(s) of {file} do not fit its header ({'; '.join(named)}); "
            "put texts with commas, tabs or quotes in double quotes and double the quotes inside, or write JSON lines"
        )


def _parquet_records(file: Path) -> Iterator[tuple[int, Record | str]]:
    number = 0
    with _open_parquet(file) as table:
        _without_duplicates(table.schema_arrow.names, file)
        batches = table.iter_batches(1000)
        while True:
            try:
                batch = next(batches, None)
            except (pyarrow.ArrowException, OSError) as error:
                raise DataError(f"{file} is damaged: it cannot be read after row {number} ({error})") from error
            if batch is None:
                return
            for record in _batch_records(batch):
                number += 1
                yield number, record


def _batch_records(batch: pyarrow.RecordBatch) -> Iterator[Record | str]:
    records: list[Record | str]
    try:
        records = batch.to_pylist()
    except (ValueError, pyarrow.ArrowException):  # such as a text that is not UTF-8
        records = [_one_record(batch.slice(row, 1)) for row in range(len(batch))]
    yield from records


def _one_record(batch: pyarrow.RecordBatch) -> Record | str:
    try:
        record: Record = batch.to_pylist()[0]
    except (ValueError, pyarrow.ArrowException) as error:
        return f"not readable: {error}"
    return record


def _open_parquet(file: Path) -> pyarrow.parquet.ParquetFile:
    try:
        return pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{file} is not a Parquet file, or it is damaged ({error}); write it again") from error


def _without_duplicates(columns: list[str], file: Path) -> list[str]:
    repeated = [name for name, count in Counter(columns).items() if count > 1 and name]
    if repeated:
        raise ConfigError(f"{file} has the column {repeated[0][:40]!r} more than once; rename or remove the others")
    return columns
