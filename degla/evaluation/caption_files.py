"""Files of images with several captions each: BLIP's list, Karpathy's JSON, or a CSV."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from degla.data.schema import Problem
from degla.errors import ConfigError
from degla.evaluation.items import ImageRef

if TYPE_CHECKING:
    from degla.evaluation.task import Task


class CaptionedImage(NamedTuple):
    """An image with its captions."""

    name: str  # as the file names it
    image: ImageRef
    captions: list[str]


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
    data = task.read_file(path, "captions").decode("utf-8-sig")
    is_csv = path.suffix in (".csv", ".txt")
    try:
        pairs = _csv_pairs(data) if is_csv else _json_pairs(data, split)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"benchmark.{task.name}: {path} has none of the layouts that docs/evaluation.md lists: {error!r}"
        ) from error
    by_name: dict[str, list[str]] = {}
    for name, captions in pairs:
        if name in by_name and not is_csv:
            task.problems.append(Problem(name, f"named twice in {path.name}, the captions are joined", False))
        by_name.setdefault(name, []).extend(caption for caption in captions if caption.strip())
    return [CaptionedImage(name, ImageRef(str(images / name)), captions) for name, captions in by_name.items()]


def _csv_pairs(data: str) -> list[tuple[str, Sequence[str]]]:
    return [(row["image"], [row["caption"]]) for row in csv.DictReader(io.StringIO(data))]


def _json_pairs(data: str, split: str) -> list[tuple[str, Sequence[str]]]:
    content = json.loads(data)
    if isinstance(content, dict):
        return [
            (
                str(Path(image.get("filepath", ""), image["filename"])),
                [sentence["raw"] for sentence in image["sentences"]],
            )
            for image in content["images"]
            if image.get("split", split) == split
        ]
    return [(item["image"], list(item["caption"])) for item in content]
