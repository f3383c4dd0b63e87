"""Writes the suite as files, in the formats of SugarCrepe, ARO and VALSE.

``python -m degla.data.scenes.suite_files <folder> [validation|test]`` writes one folder per benchmark and ``images/``.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from degla.data.scenes.suite import SUBSETS, SuiteItem, suite_items

Record = dict[str, Any]  # a JSON object

# Sub-task -> file name, where the benchmark's own name differs.
_FILES = {
    "relation": "visual_genome_relation",
    "attribution": "visual_genome_attribution",
    "order": "coco_order",
    "plurality": "plurals",
    "counting": "counting-small-quant",
    "spatial": "relations",
}


def write_suite(folder: Path, split: str = "test", num_items: int = 200, size: int = 48) -> None:
    """Write every sub-task with its images.

    Args:
        folder: created if it does not exist.
        split: ``validation`` or ``test``.
        num_items: images of each sub-task.
        size: width and height in pixels.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for benchmark, subsets in SUBSETS.items():
        (folder / benchmark).mkdir(exist_ok=True)
        for subset in subsets:
            items = enumerate(suite_items(benchmark, subset, split, num_items, size))
            by_name = {f"{benchmark}_{subset}_{number:04d}.png": item for number, item in items}
            for name, item in by_name.items():
                (folder / "images" / name).write_bytes(item.image_bytes)
            content = _CONTENT[benchmark](subset, by_name, size)
            path = folder / benchmark / f"{_FILES.get(subset, subset)}.json"
            path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _sugarcrepe(subset: str, items: dict[str, SuiteItem], size: int) -> Record:
    return {
        str(number): {"filename": name, "caption": item.caption, "negative_caption": item.foils[0]}
        for number, (name, item) in enumerate(items.items())
    }


def _aro(subset: str, items: dict[str, SuiteItem], size: int) -> list[Record]:
    if subset == "order":
        return [{"image_path": name, "caption_options": [item.caption, *item.foils]} for name, item in items.items()]
    records = []
    for name, item in items.items():
        box = {
            "bbox_x": 0,
            "bbox_y": 0,
            "bbox_w": size,
            "bbox_h": size,
        }  # ARO crops images to this box; here it is the whole image
        group = {"relation_name": item.group} if subset == "relation" else {"attributes": item.group.split("_")}
        texts = {"true_caption": item.caption, "false_caption": item.foils[0]}
        records.append({"image_path": name, **box, **texts, **group})
    return records


def _valse(subset: str, items: dict[str, SuiteItem], size: int) -> Record:
    return {
        f"{subset}_{number}": {
            "dataset": "degla scenes",
            "original_split": "",
            "linguistic_phenomena": subset,
            "image_file": name,
            "caption": item.caption,
            "foil": item.foils[0],
            "classes": "",
            "classes_foil": "",
            "mturk": {
                "caption": 3,
                "foil": 0,
                "other": 0,
            },  # what three annotators would say; the captions are true by construction
        }
        for number, (name, item) in enumerate(items.items())
    }


_CONTENT: dict[str, Callable[[str, dict[str, SuiteItem], int], Record | list[Record]]] = {
    "sugarcrepe": _sugarcrepe,
    "aro": _aro,
    "valse": _valse,
}


if __name__ == "__main__":
    write_suite(Path(sys.argv[1]), split=sys.argv[2] if len(sys.argv) > 2 else "test")
