"""Files of images with several captions each: BLIP's list, Karpathy's JSON, or a CSV."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import TypeAdapter

from degla.data.schema import Problem
from degla.errors import ConfigError
from degla.evaluation.items import ImageRef
from degla.evaluation.schemas import ForeignModel, Text, validated

if TYPE_CHECKING:
    from degla.evaluation.task import Task


class CaptionedImage(NamedTuple):
    """An image with its captions."""

    name: str  # as the file names it
    image: ImageRef
    captions: list[str]


class _Blip(ForeignModel):
    image: Text
    caption: list[str]


class _Sentence(ForeignModel):
    raw: str


class _KarpathyImage(ForeignModel):
    filename: Text
    sentences: list[_Sentence]
    filepath: str = ""
    split: str | None = None


class _Karpathy(ForeignModel):
    images: list[_KarpathyImage]


_KARPATHY = TypeAdapter(_Karpathy)
_BLIP = TypeAdapter(list[_Blip])


def read_caption_file(task: "Task", path: Path, images: Path, split: str = "test") -> list[CaptionedImage]:
    """Read a file of images and captions.

    Three layouts are read: BLIP's list of ``{image, caption: [...]}``, Karpathy's
    ``{images: [{filename, sentences}]}``, and a CSV with the columns ``image, caption`` and one row per caption.

    Args:
        task: its protocol gets the hash of the file, and its problems the images that are named twice.
        path: the file.
        images: folder of the images.
        split: which of Karpathy's splits.

    Raises:
        ConfigError: the file is missing or has another layout.
    """
    data = task.read_file(path, "captions")
    is_csv = path.suffix in (".csv", ".txt")
    try:
        text = data.decode("utf-8-sig")
        pairs = _csv_pairs(text) if is_csv else _json_pairs(json.loads(text), split)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"benchmark.{task.name}: {path} has none of the layouts that docs/evaluation.md lists: {error}"
        ) from error
    by_name: dict[str, list[str]] = {}
    for name, captions in pairs:
        if name in by_name and not is_csv:
            task.problems.append(Problem(name, f"named twice in {path.name}, the captions are joined", False))
        by_name.setdefault(name, []).extend(caption for caption in captions if caption.strip())
    return [CaptionedImage(name, ImageRef(str(images / name)), captions) for name, captions in by_name.items()]


def _csv_pairs(text: str) -> list[tuple[str, Sequence[str]]]:
    rows = csv.DictReader(io.StringIO(text))
    if missing := {"image", "caption"} - set(rows.fieldnames or ()):
        raise ValueError(f"there is no column {min(missing)}, only {rows.fieldnames}")
    pairs: list[tuple[str, Sequence[str]]] = []
    for row in rows:
        if not row["image"] or row["caption"] is None:
            raise ValueError(f"line {rows.line_num} has no image or no caption")
        pairs.append((row["image"], [row["caption"]]))
    return pairs


def _json_pairs(content: Any, split: str) -> list[tuple[str, Sequence[str]]]:
    if not isinstance(content, dict):
        return [(item.image, item.caption) for item in validated(_BLIP, content)]
    return [
        (str(Path(image.filepath, image.filename)), [sentence.raw for sentence in image.sentences])
        for image in validated(_KARPATHY, content).images
        if image.split in (None, split)
    ]
