"""JSON files of a run that the report reads, each with a schema of its own."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from degla.artifacts import atomic_write

Record = TypeVar("Record", bound=BaseModel)


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record as JSON, whole or not at all.

    Args:
        path: the file, in the folder of the run.
        record: its content.
    """
    with atomic_write(path) as partial:
        partial.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_record(path: Path, schema: type[Record]) -> Record | None:
    """Return a record, or None if there is none that this release can read: the rest of a report can do without it.

    Args:
        path: the file, in the folder of the run.
        schema: of the record.
    """
    if not path.is_file():
        return None
    try:
        return schema.model_validate_json(path.read_bytes())
    except ValidationError:
        return None
