"""Hugging Face data sets, from the hub or from a folder in its layout, as plain rows."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
from huggingface_hub import constants

from degla.errors import ConfigError
from degla.evaluation.items import ImageRef
from degla.hub import reachable_hub

if TYPE_CHECKING:
    from degla.evaluation.task import Task


def hub_rows(task: "Task", path: str, columns: Sequence[str], config: str | None = None) -> list[dict]:
    """Rows of the ``test`` split (or of the only one), images as ``ImageRef``.

    Args:
        task: whose protocol gets the data's fingerprint.
        path: hub id, or a folder.
        columns: which must be there.
        config: of the data set; in a folder, the file of this name.

    Raises:
        ConfigError: it cannot be had, or lacks a column.
    """
    try:
        if Path(path).is_dir():
            pattern = f"**/{config or ''}*.parquet"
            files = sorted(str(file) for file in Path(path).glob(pattern))
            if not files:
                raise FileNotFoundError(f"no {pattern} in {path}")
            table = datasets.load_dataset("parquet", data_files=files, split="train")
            revision = _hash(files)
        else:
            with reachable_hub():
                splits = datasets.load_dataset(path, config)
            table = splits["test"] if "test" in splits else next(iter(splits.values()))
            revision = table._fingerprint
    except Exception as error:
        where = "" if constants.HF_HUB_OFFLINE is False else " (HF_HUB_OFFLINE is set)"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"benchmark.{task.name}: {path} cannot be read{where}: {reason}; {task.get_it}") from error
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise ConfigError(f"benchmark.{task.name}: {path} has no column {missing[0]}, only {table.column_names}")
    images = [name for name, feature in table.features.items() if _is_image(feature)]
    for name in images:
        table = table.cast_column(name, datasets.Image(decode=False))
    task.sources[f"{path}{f'/{config}' if config else ''}"] = revision
    return [{name: _picture(value) if name in images else value for name, value in row.items()} for row in table]


def _hash(files: list[str]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with Path(file).open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def _is_image(feature) -> bool:
    if isinstance(feature, datasets.Image):
        return True
    return isinstance(feature, dict) and set(feature) == {"bytes", "path"}


def _picture(value: dict) -> ImageRef:
    return ImageRef.embedded(value["bytes"]) if value["bytes"] is not None else ImageRef(value["path"])
