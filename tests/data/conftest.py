import json

import datasets
import pytest


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
