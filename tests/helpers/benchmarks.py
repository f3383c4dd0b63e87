"""Benchmarks in their official layouts, made up: files with the right names in the right folders."""

import json
import random
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image

from degla.evaluation.items import ImageRef
from degla.evaluation.task import Task

WORDS = ["cat", "dog", "bird", "red", "small", "on", "under", "a", "the", "sees", "two", "house"]


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(6))


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30)) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"{path.name} {seed}")
    colours = [tuple(rng.randrange(256) for _ in range(3)) for _ in range(size[0] * size[1] // 100)]
    image = Image.new("RGB", (size[0] // 10, size[1] // 10))
    image.putdata(colours)
    image.resize(size).save(path)
    return path.read_bytes()


def stand_ins(task: Task) -> int:
    """Write a made-up image for every image of the task, and return the number of files."""
    paths = {image.path for image in task.list_images() if image.data is None}
    for path in paths:
        if not Path(path).exists():
            write_image(Path(path), size=(20, 20))
    return len(paths)


def write_json(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_parquet(path: Path, rows: list[dict], images: Iterable[str]) -> None:
    """Write a table as the hub stores it: images as a struct of bytes and path."""
    for row in rows:
        for name in images:
            row[name] = {"bytes": row[name], "path": None}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def sugarcrepe(root: Path, subsets: Iterable[str], count: int = 6) -> None:
    rng = random.Random(0)
    for subset in subsets:
        items = {
            str(i): {
                "filename": f"{i % 4:012d}.jpg",
                "caption": f"{sentence(rng)} {i}",
                "negative_caption": f"{sentence(rng)} {subset} {i}",
            }
            for i in range(count)
            if i != 2  # a gap, as in swap_obj
        }
        write_json(root / "sugarcrepe" / f"{subset}.json", items)
    for i in range(4):
        write_image(root / "coco" / "val2017" / f"{i:012d}.jpg")


class RandomFeatures:
    """Random features by the name of an image or text, so that a slow loop can use the same ones."""

    def __init__(self, dimension: int = 8, missing: Iterable[str] = ()):
        self.dimension = dimension
        self.missing = set(missing)

    def one(self, name: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(random.Random(name).getrandbits(40))
        return F.normalize(torch.randn(self.dimension, generator=generator), dim=0)

    def image_features(self, images: Iterable[ImageRef]) -> torch.Tensor:
        return torch.stack([self.one(image.name) for image in images])

    def text_features(self, texts: Iterable[str]) -> torch.Tensor:
        return torch.stack([self.one(text) for text in texts])

    def is_readable(self, image: ImageRef) -> bool:
        return Path(image.path).name not in self.missing

    def score(self, image: ImageRef | str, text: str) -> float:
        name = image if isinstance(image, str) else image.name
        return float(self.one(name).double() @ self.one(text).double())
