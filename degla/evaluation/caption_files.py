"""DecodedImages with several captions, in the three forms in which they are handed round."""

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

from degla.data.schema import Problem
from degla.errors import ConfigError
from degla.evaluation.items import ImageRef

if TYPE_CHECKING:
    from degla.evaluation.task import Task

Captioned = list[tuple[str, ImageRef, list[str]]]  # name of the image, the image, its captions


def read_captioned(task: "Task", path: Path, images: Path, split: str = "test") -> Captioned:
    """Read BLIP's list of ``{image, caption: [...]}``, Karpathy's ``{images: [{filename, sentences}]}`` or a CSV
    with the columns ``image, caption``, a row a caption.

    Args:
        task: whose protocol gets the file's hash, and whose problems the images that are named twice.
        path: the file.
        images: folder of the images.
        split: which of Karpathy's splits.

    Raises:
        ConfigError: missing or of another form.
    """
    data = task.read_file(path, "captions").decode("utf-8-sig")
    try:
        if path.suffix in (".csv", ".txt"):
            pairs = [(row["image"], [row["caption"]]) for row in csv.DictReader(io.StringIO(data))]
            repeats_are_one = True
        elif isinstance(content := json.loads(data), dict):
            pairs = [
                (
                    str(Path(image.get("filepath", ""), image["filename"])),
                    [sentence["raw"] for sentence in image["sentences"]],
                )
                for image in content["images"]
                if image.get("split", split) == split
            ]
            repeats_are_one = False
        else:
            pairs = [(item["image"], list(item["caption"])) for item in content]
            repeats_are_one = False
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"benchmark.{task.name}: {path} is in no form that is known (docs/evaluation.md): {error!r}"
        ) from error
    found: dict[str, list[str]] = {}
    for name, captions in pairs:
        if name in found and not repeats_are_one:
            task.problems.append(Problem(name, f"named twice in {path.name}, the captions are joined", False))
        found.setdefault(name, []).extend(caption for caption in captions if caption.strip())
    return [(name, ImageRef(str(images / name)), captions) for name, captions in found.items()]
