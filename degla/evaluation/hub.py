"""Hugging Face data sets, from the hub or from a folder in its layout, as plain rows."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import datasets
from huggingface_hub import constants
from pydantic import ValidationError

from degla.compat.datasets import fingerprint
from degla.errors import ConfigError
from degla.evaluation.items import ImageRef
from degla.evaluation.schemas import ForeignModel, first_error
from degla.hub import reachable_hub

if TYPE_CHECKING:
    from degla.evaluation.task import Task

Row = TypeVar("Row", bound=ForeignModel)


def hub_rows(task: "Task", path: str, model: type[Row], config: str | None = None) -> list[Row]:
    """Read the rows of the ``test`` split, or of the only split, with images as ``ImageRef``.

    Args:
        task: its protocol gets the fingerprint of the data.
        path: hub id, or a folder.
        model: what a row must hold; its required fields are the columns that must exist.
        config: name of the data set's configuration; in a folder, the start of the file name.

    Raises:
        ConfigError: the data set cannot be read, a column is missing, or a row has the wrong form.
    """
    try:
        table, revision = _open(path, config)
    except Exception as error:  # datasets and huggingface_hub raise dozens of types
        where = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"benchmark.{task.name}: {path} cannot be read{where}: {reason}; {task.download_hint}"
        ) from error
    missing = [name for name, field in model.model_fields.items() if field.is_required() and name not in table.features]
    if missing:
        raise ConfigError(f"benchmark.{task.name}: {path} has no column {missing[0]}, only {table.column_names}")
    images = [name for name, feature in table.features.items() if _is_image(feature)]
    for name in images:
        table = table.cast_column(name, datasets.Image(decode=False))
    task.sources[f"{path}{f'/{config}' if config else ''}"] = revision
    rows = []
    for number, row in enumerate(table):
        values = {name: _image_ref(value) if name in images else value for name, value in row.items()}
        try:
            rows.append(model.model_validate(values))
        except ValidationError as error:
            raise ConfigError(f"benchmark.{task.name}: {path}, row {number}: {first_error(error)}") from error
    return rows


def _open(path: str, config: str | None) -> tuple[datasets.Dataset, str]:
    """Return the table, and a hash of its content."""
    if not Path(path).is_dir():
        with reachable_hub():
            splits = datasets.load_dataset(path, config)
        table = splits["test"] if "test" in splits else next(iter(splits.values()))
        return table, fingerprint(table)
    pattern = f"**/{config or ''}*.parquet"
    files = sorted(str(file) for file in Path(path).glob(pattern))
    if not files:
        raise FileNotFoundError(f"no {pattern} in {path}")
    return datasets.load_dataset("parquet", data_files=files, split="train"), _hash(files)


def _hash(files: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with Path(file).open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def _is_image(feature: object) -> bool:
    if isinstance(feature, datasets.Image):
        return True
    return isinstance(feature, dict) and set(feature) == {"bytes", "path"}


def _image_ref(value: dict[str, Any] | None) -> ImageRef | None:
    if value is None:
        return None
    if value["bytes"] is not None:
        return ImageRef.embedded(value["bytes"])
    return ImageRef(value["path"]) if value["path"] else None
