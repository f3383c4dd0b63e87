"""The source of CE-CLIP's authors' negatives: ``.npy`` files of dictionaries, 50,000 captions of COCO in each."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from degla.data.schema import describe
from degla.data.sources import formats
from degla.data.sources.object_arrays import read_object_array
from degla.data.sources.records import Record
from degla.data.sources.table import SampleTable, bad_record, build_table, table_record
from degla.errors import ConfigError

# Key of an item -> type of the negative, in the order of the authors' slots. A negative that they could not make is
# `###`, or has a 0 in `valid_caption`; its slot stays empty under `loader.negatives=in_place`.
_NEGATIVES = {
    "relation_aug_caption": "swap_nouns",
    "adj_aug_caption": "replace_adjectives",
    "noun_aug_caption": "replace_nouns",
    "verb_aug_caption": "replace_verbs",
}
_MISSING = "###"
_PAGE = "https://github.com/lezhang7/Enhance-FineGrained"
_COCO_PAGE = "https://cocodataset.org/#download"


def ce_clip_npy(
    annotations: str | None, image_root: str | None, split: str = "train2014", cache_dir: str | None = None
) -> SampleTable:
    """Read CE-CLIP's authors' ``.npy`` files, without running the pickles in them.

    Items: ``caption``, ``relation_aug_caption``, ``adj_aug_caption``, ``noun_aug_caption``, ``verb_aug_caption``,
    ``valid_caption`` (five flags), and ``image_id`` of COCO, or ``image_path``.

    Args:
        annotations: one ``.npy`` file, or the folder with all of them.
        image_root: folder of ``COCO_<split>_<12 digits>.jpg``, to which ``image_path`` is relative, too.
        split: ``train2014`` or ``val2014``.
        cache_dir: folder of the memory-mapped table; None is the default of ``datasets``.

    Raises:
        ConfigError: file or folder missing, or a file that holds anything but plain dictionaries.
    """
    if split not in ("train2014", "val2014"):
        raise ConfigError(f"data.split={split} must be train2014 or val2014")
    files = _files(annotations)
    if image_root is None or not Path(image_root).expanduser().is_dir():
        raise ConfigError(
            f"data.image_root={image_root} is not a folder: set data.image_root=/path/to COCO's {split} folder, from "
            f"{_COCO_PAGE}"
        )
    images = str(Path(image_root).expanduser().resolve())
    return build_table(
        ce_clip_records, *files, cache_dir=cache_dir, files=[str(file) for file in files], images=images, split=split
    )


def _files(annotations: str | None) -> list[Path]:
    purpose = f"the .npy files of CE-CLIP's authors (data/dataset.py of {_PAGE} writes them)"
    if annotations is None:
        raise ConfigError(f"data.annotations is not set: set data.annotations=/path/to {purpose}")
    path = Path(annotations).expanduser()
    if path.is_dir():
        files = sorted(path.glob("*.npy"), key=lambda file: [int(n) for n in re.findall(r"\d+", file.name)])
        if not files:
            raise ConfigError(f"data.annotations: {path} holds no .npy file; set data.annotations=/path/to {purpose}")
        return files
    if not path.is_file():
        raise ConfigError(f"data.annotations: there is no file {path}; set data.annotations=/path/to {purpose}")
    formats.require(path, (formats.OBJECT_ARRAY,), "data.annotations")
    return [path]


def ce_clip_records(files: list[str], images: str, split: str) -> Iterator[Record]:
    """Yield the records of CE-CLIP's files.

    Args:
        files: in their order.
        images: folder of the images.
        split: part of the names of COCO's images.
    """
    for file in files:
        for number, item in enumerate(read_object_array(Path(file))):
            row_id = f"{Path(file).name}:{number}"
            try:
                yield table_record(row_id, _image(item, images, split), item.get("caption"), _negatives(item))
            except ValueError as error:
                yield bad_record(row_id, str(error))


def _image(item: Any, images: str, split: str) -> str:
    if not isinstance(item, dict):
        raise ValueError(f"the item is {describe(item)}, not an object")
    path = item.get("image_path") or item.get("image")
    if path is not None:
        if not isinstance(path, str):
            raise ValueError(f"image_path is {describe(path)}, not a path")
        return str(Path(images) / path)
    image_id = item.get("image_id")
    if isinstance(image_id, bool) or not str(image_id).isdecimal() or len(str(image_id)) > 12:
        raise ValueError(f"image_id is {describe(image_id)}, not a whole number of COCO")
    return f"{images}/COCO_{split}_{int(str(image_id)):012d}.jpg"


def _negatives(item: dict[str, Any]) -> list[dict[str, str]]:
    """Return the four negatives; one that is not valid has an empty text, so that the others keep their slots."""
    flags = item.get("valid_caption", [1] * (1 + len(_NEGATIVES)))
    flags = getattr(flags, "content", flags)  # of an array of numbers
    if not isinstance(flags, list | tuple) or len(flags) != 1 + len(_NEGATIVES):
        raise ValueError(f"valid_caption is {describe(flags)}, not {1 + len(_NEGATIVES)} flags")
    negatives = []
    for (key, type_name), is_valid in zip(_NEGATIVES.items(), flags[1:], strict=True):
        text = item.get(key)
        if not isinstance(text, str):
            raise ValueError(f"{key} is {describe(text)}, not a text")
        negatives.append({"text": text if is_valid and text != _MISSING else "", "type": type_name})
    return negatives
