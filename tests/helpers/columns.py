"""Give a folder of made-up photos every further column."""

import json
from pathlib import Path


def add_columns(folder: Path) -> None:
    """Write captions, units, paraphrases and negative images into ``captions.jsonl``; the first image gets none."""
    file = folder / "captions.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows[2:]):
        row["captions"] = [f"once more {number}"]
        row["units"] = [{"text": f"photo {number}", "foil": f"drawing {number}"}]
        row["paraphrases"] = [f"number {number} of the photos"]
        row["negative_images"] = [rows[number]["image"]]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
