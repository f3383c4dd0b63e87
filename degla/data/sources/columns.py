"""Checks of the columns of a Hugging Face data set, before a run reads thousands of samples that cannot be used."""

from collections.abc import Iterable, Mapping
from typing import Any

import datasets

from degla.errors import ConfigError

# Names under which data sets keep hard negatives, for a hint.
_NAMES_OF_NEGATIVES = (
    *("negatives", "negative", "negative_caption", "negative_captions", "negative_text"),
    *("hard_negatives", "hard_negative", "neg_caption", "neg_captions", "false_caption", "foil", "foils"),
)


def read_column(record: Mapping[str, Any], column: str | None) -> Any:
    """Return a value by its dotted name; a name below a list gives a list.

    Args:
        record: column -> value.
        column: such as ``json.caption`` or ``sentences.raw``; None gives None.
    """
    if column is None:
        return None
    value: Any = record
    for part in column.split("."):
        if isinstance(value, list | tuple):
            value = [item.get(part) for item in value if isinstance(item, dict)]
        else:
            value = value.get(part) if isinstance(value, Mapping) else None
    return value


def check_columns(
    path: str, columns: list[str], features: datasets.Features | None, wanted: Mapping[str, str | None]
) -> None:
    """Refuse columns that do not exist or do not have the type that their key needs.

    Args:
        path: the data set, for messages.
        columns: of the data set.
        features: types of the columns; None if the data set does not know them.
        wanted: config key, such as ``image`` or ``negatives`` -> dotted name of the column; None is not checked.

    Raises:
        ConfigError: the message names the key and a column that fits.
    """
    for key, column in wanted.items():
        if column is None:
            continue
        if column.split(".")[0] not in columns:
            raise ConfigError(
                f"data.{key}={column} is not a column of {path}: set data.{key} {_advice(key, columns, features)}"
            )
        kind = _feature(features or {}, column)
        if kind is not None:
            _check_type(path, key, column, kind, columns, features)


def _check_type(
    path: str, key: str, column: str, kind: Any, columns: list[str], features: datasets.Features | None
) -> None:
    item, is_list = _item(kind), _item(kind) is not kind
    if isinstance(item, dict) and key not in ("image", "negative_images", "units"):
        if key == "negatives" and "text" in item:
            return
        texts = [name for name, part in item.items() if _is_text(part)]
        advice = f"{column}.{texts[0]}" if texts else "another column"
        raise ConfigError(
            f"data.{key}={column} of {path} holds objects with the keys {', '.join(item)}: set data.{key}={advice}"
        )
    if not _fits(key, item, is_list):
        raise ConfigError(
            f"data.{key}={column} of {path} holds {'lists of ' if is_list else ''}{_type_name(item)}, not "
            f"{_EXPECTED.get(key, 'text')}: set data.{key} {_advice(key, columns, features)}"
        )


# Config key -> what its column holds; the others hold text.
_EXPECTED = {"image": "an image", "negative_images": "images", "units": "objects of text and foil"}


def _fits(key: str, item: Any, is_list: bool) -> bool:
    """Return whether a column of ``item``, or of lists of it, can be read."""
    if key in ("image", "negative_images"):
        is_image = isinstance(item, datasets.Image | dict) or _is_text(item) or _is_binary(item)
        return is_image and (key == "negative_images" or not is_list)
    if key == "units":
        is_unit = isinstance(item, dict) and {"text", "foil"} <= set(item)
        return is_unit or (_is_text(item) and not is_list) or _is_any(item)  # a text may hold the list as JSON
    return _is_text(item) or _is_any(item)


def _advice(key: str, columns: Iterable[str], features: datasets.Features | None) -> str:
    if key == "negatives":
        likely = [name for name in _NAMES_OF_NEGATIVES if name in columns]
        return f"to {likely[0]}" if likely else f"to one of {', '.join(columns)}, or to null if there are no negatives"
    if key not in ("image", "caption"):
        return f"to one of {', '.join(columns)}, or to null if there are none"
    if features:
        fits = _is_text if key == "caption" else lambda kind: isinstance(kind, datasets.Image)
        likely = [name for name in columns if fits(_item(features.get(name)))]
        columns = likely or columns
    return f"to one of {', '.join(columns)}"


def _feature(features: Any, column: str) -> Any:
    kind: Any = features
    for part in column.split("."):
        kind = _item(kind)
        kind = kind.get(part) if isinstance(kind, dict) else None
    return kind


def _item(kind: Any) -> Any:
    """Return the type of a list's items; of anything else, the type itself."""
    return kind.feature if isinstance(kind, datasets.List | datasets.LargeList) else kind


def _is_text(kind: Any) -> bool:
    return isinstance(kind, datasets.Value) and kind.dtype in ("string", "large_string")


def _is_binary(kind: Any) -> bool:
    return isinstance(kind, datasets.Value) and kind.dtype in ("binary", "large_binary")


def _is_any(kind: Any) -> bool:
    """Return whether the type says nothing about the values: a column of nulls, or of JSON of mixed types."""
    return type(kind).__name__ == "Json" or (isinstance(kind, datasets.Value) and kind.dtype == "null")


def _type_name(kind: Any) -> str:
    return str(kind.dtype) if isinstance(kind, datasets.Value) else type(kind).__name__
