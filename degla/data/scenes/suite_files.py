"""The suite as files, in the formats of SugarCrepe, ARO and VALSE.

``python -m degla.data.scenes.suite_files <folder> [validation|test]`` writes one folder a benchmark and ``images/``.
"""

import json
import sys
from pathlib import Path

from degla.data.scenes.suite import SUBSETS, SuiteItem, suite_items

# Sub-task -> name of its file where the benchmark has another one.
_FILES = {
    "relation": "visual_genome_relation",
    "attribution": "visual_genome_attribution",
    "order": "coco_order",
    "plurality": "plurals",
    "counting": "counting-small-quant",
    "spatial": "relations",
}


def write_suite(folder: Path, split: str = "test", num_items: int = 200, size: int = 48) -> None:
    """Write every sub-task with its pictures.

    Args:
        folder: is created.
        split: ``validation`` or ``test``.
        num_items: pictures of each sub-task.
        size: pixels of a side.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for benchmark, subsets in SUBSETS.items():
        (folder / benchmark).mkdir(exist_ok=True)
        for subset in subsets:
            named = {}
            for number, item in enumerate(suite_items(benchmark, subset, split, num_items, size)):
                named[f"{benchmark}_{subset}_{number:04d}.png"] = item
            for name, item in named.items():
                (folder / "images" / name).write_bytes(item.image_bytes)
            content = _CONTENT[benchmark](subset, named, size)
            path = folder / benchmark / f"{_FILES.get(subset, subset)}.json"
            path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _sugarcrepe(subset: str, items: dict[str, SuiteItem], size: int) -> dict:
    return {
        str(number): {"filename": name, "caption": item.caption, "negative_caption": item.foils[0]}
        for number, (name, item) in enumerate(items.items())
    }


def _aro(subset: str, items: dict[str, SuiteItem], size: int) -> list[dict]:
    if subset == "order":
        return [{"image_path": name, "caption_options": [item.caption, *item.foils]} for name, item in items.items()]
    records = []
    for name, item in items.items():
        box = {"bbox_x": 0, "bbox_y": 0, "bbox_w": size, "bbox_h": size}  # ARO crops to the box: here, the whole
        group = {"relation_name": item.group} if subset == "relation" else {"attributes": item.group.split("_")}
        texts = {"true_caption": item.caption, "false_caption": item.foils[0]}
        records.append({"image_path": name, **box, **texts, **group})
    return records


def _valse(subset: str, items: dict[str, SuiteItem], size: int) -> dict:
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
            "mturk": {"caption": 3, "foil": 0, "other": 0},  # true by construction, in place of three annotators
        }
        for number, (name, item) in enumerate(items.items())
    }


_CONTENT = {"sugarcrepe": _sugarcrepe, "aro": _aro, "valse": _valse}


if __name__ == "__main__":
    write_suite(Path(sys.argv[1]), *sys.argv[2:3])
