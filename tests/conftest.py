import csv
import json
import os
import subprocess
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from tests.helpers.forked import degla_forked

SHARED = Path(__file__).parents[2] / "shared" / "data"
KINDS = ("reshuffle_order", "swap_nouns", "swap_adjectives", "replace_adjectives", "replace_nouns")


@pytest.fixture(scope="session")
def flickr() -> Path:
    """1000 real photos with captions and typed negatives."""
    folder = SHARED / "flickr8k_1k"
    if not (folder / "negatives.jsonl").is_file():
        pytest.skip(f"real photos are not here ({folder})")
    return folder


@pytest.fixture(scope="session", autouse=True)
def dataset_cache(tmp_path_factory):
    """Keep the tables of the tests out of the user's cache; the processes of one test run share them."""
    if "HF_DATASETS_CACHE" not in os.environ:
        os.environ["HF_DATASETS_CACHE"] = str(tmp_path_factory.mktemp("datasets"))


@pytest.fixture
def photo_folder(tmp_path) -> Path:
    """Twelve JPEG files, two captions each, negatives of all kinds, in JSON lines."""
    return make_photo_folder(tmp_path / "photos")


@pytest.fixture
def hub_dataset(photo_folder):
    """The photos as a `datasets` table with embedded bytes."""
    rows = [json.loads(line) for line in (photo_folder / "captions.jsonl").read_text().splitlines()]
    for row in rows:
        row["image"] = {"bytes": (photo_folder / row["image"]).read_bytes(), "path": None}
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "caption": datasets.Value("string"),
            "negatives": datasets.List({"text": datasets.Value("string"), "type": datasets.Value("string")}),
        }
    )
    return datasets.Dataset.from_list(rows, features=features)


def make_photo_folder(folder: Path, images: int = 12) -> Path:
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    with (folder / "captions.jsonl").open("w") as file:
        for i in range(images):
            pixels = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((80 + i, 70)).save(folder / "images" / f"{i}.jpg")
            for j in range(2):
                negatives = [{"text": f"not {i} {j} {kind}", "type": kind} for kind in KINDS]
                row = {"image": f"images/{i}.jpg", "caption": f"photo number {i} said {j}", "negatives": negatives}
                file.write(json.dumps(row) + "\n")
    return folder


def degla(
    *arguments: str, cwd: Path, check: bool = True, program: str = "train", **environment: str
) -> subprocess.CompletedProcess:
    """Run ``python -m degla.<program>`` as a user does.

    It is a copy of a process that has imported torch, and so are the processes that it starts.
    """
    result = degla_forked(*arguments, cwd=cwd, program=program, **environment)
    assert not check or result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    return result


LONGEST = ("every_layout", "one_fault_after", "vit_b_32_on", "study_killed", "optuna_search", "an_epoch_of_real")


def pytest_collection_modifyitems(items):
    """Start the longest tests first, because xdist hands tests out in order and the last ones run alone."""

    def place(item):
        longest = [i for i, name in enumerate(LONGEST) if name in item.name]
        return (longest or [len(LONGEST)])[0], item.get_closest_marker("slow") is None

    items.sort(key=place)


def only_run(cwd: Path, name: str = "train") -> Path:
    runs = [path for path in (cwd / "runs" / name).iterdir() if path.is_dir()]
    assert len(runs) == 1, runs
    return runs[0]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


TINY = (
    "model=tiny",
    "loader.num_workers=0",
    "trainer.accelerator=cpu",
    "callbacks.progress_bar=null",
    "callbacks.memory=null",  # its plan takes a second of every run
    "trainer.log_every_n_steps=1",
    "optimizer.lr=1e-3",
)
