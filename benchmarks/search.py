"""Measure ``degla-search``: build, kill and resume, update, query, and recall against brute force.

    python benchmarks/search.py --photos ../shared/data/flickr8k_1k/images
    python benchmarks/search.py --scenes 100000

The program runs as users run it, in a process of its own. A first process is killed with SIGKILL when half of the
images are embedded, and the second one resumes.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from record import save, spread

from degla.data.scenes import LAYOUTS, caption_of, png_bytes, sample_claim, sample_scene
from degla.image_index.blocks import ROWS, read_blocks, select
from degla.image_index.build import sample_captions
from degla.image_index.encoders import load_encoder
from degla.image_index.graph import measure_recall, open_graph, search_graph
from degla.image_index.manifest import read_manifest

KINDS = {"pair": "related", "overlap": "related", "three": "listed", "group": "counted", "alone": "exists"}


def main() -> None:
    """Measure one folder and save the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of images; it is copied")
    parser.add_argument("--scenes", type=int, help="number of scenes to draw instead")
    parser.add_argument("--model", default="scenes", help="option of configs/model")
    parser.add_argument("--queries", type=int, default=200, help="number of captions to search")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "images"
        if arguments.photos:
            shutil.copytree(arguments.photos, folder)
            captions = sample_captions()
        else:
            captions = draw(folder, arguments.scenes)
        figures = measure(folder, f"model={arguments.model}", captions[: arguments.queries])
    settings = {
        "images": "photos" if arguments.photos else "drawn scenes of 48 x 48 pixels",
        "model": arguments.model,
        "num_workers": 2,
        "queries": min(arguments.queries, len(captions)),
        "note": f"other programs used the machine: load average {load:.1f} before, {os.getloadavg()[0]:.1f} after",
    }
    save("search_photos" if arguments.photos else "search_scenes", settings, figures)


def draw(folder: Path, count: int) -> list[str]:
    """Draw scenes, a thousand per folder; return true captions of the first thousand."""
    parts = [(folder / f"{start // 1000:03}", start, min(count, start + 1000)) for start in range(0, count, 1000)]
    with ProcessPoolExecutor() as pool:
        return next(captions for captions in list(pool.map(draw_part, parts)) if captions)


def draw_part(part: tuple[Path, int, int]) -> list[str]:
    """Draw the scenes of one folder; return their captions."""
    folder, start, stop = part
    folder.mkdir(parents=True)
    rng = random.Random(start)
    captions = []
    for i in range(start, stop):
        layout = LAYOUTS[i % len(LAYOUTS)]
        scene = sample_scene(rng, layout, "train")
        (folder / f"{i:06}.png").write_bytes(png_bytes(scene, rng))
        captions.append(caption_of(sample_claim(scene, rng, KINDS[layout]), rng.randrange(2)))
    return captions


def measure(folder: Path, model: str, captions: list[str]) -> dict[str, Any]:
    """Build, update and search an index of a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    store = folder / ".degla_search"
    killed = kill_when_half_done(folder, model, len(paths))
    resumed, printed = run(folder, model)
    unchanged, _ = run(folder)
    for path in paths[:: max(1, len(paths) // 50)]:
        path.touch()
    updated, printed_after_update = run(folder)
    command, _ = run(folder, f"query={captions[0]}", "page=null")
    manifest = read_manifest(store)
    assert manifest is not None
    encoder = load_encoder(manifest.model, "cpu")
    graph = open_graph(store, manifest.graph, manifest.model.embed_dim, len(manifest.images))
    rows = select(read_blocks(store), set(manifest.images))
    encoding, searching, brute_force, queries = [], [], [], []
    for caption in captions:
        start = time.perf_counter()
        query = encoder.encode_texts([caption])[0]
        encoded = time.perf_counter()
        search_graph(graph, query, 10)
        searched = time.perf_counter()
        np.argpartition(-(rows.features @ query), min(10, len(rows.files) - 1))
        brute_force.append(time.perf_counter() - searched)
        encoding.append(encoded - start)
        searching.append(searched - encoded)
        queries.append(query)
    return {
        "images": len(manifest.images),
        "embed_dim": manifest.model.embed_dim,
        "seconds_until_killed": killed,
        "seconds_resumed": resumed,
        "embedded_after_the_kill": number(r"; (\d+) embedded", printed),
        "seconds_unchanged": unchanged,
        "updated": number(r"; (\d+) embedded", printed_after_update),
        "seconds_updated": updated,
        "seconds_query_command": command,
        "encode_caption": spread(encoding),
        "search": spread(searching),
        "brute_force": spread(brute_force),
        "recall_at_10_queries": measure_recall(graph, rows.features, np.stack(queries)),
        "recall_at_10_of_the_program": manifest.recall.model_dump(),
        "expansion": manifest.graph.expansion,
        "bytes_on_disk": sum(path.stat().st_size for path in store.iterdir()),
    }


def kill_when_half_done(folder: Path, model: str, count: int) -> float | None:
    """Start the program and kill it when half of its blocks are written; None where there is one block only."""
    if count < 2 * ROWS:
        return None
    start = time.perf_counter()
    job = subprocess.Popen([sys.executable, "-m", "degla.search", f"index={folder}", model], stderr=subprocess.DEVNULL)
    while job.poll() is None and len(list((folder / ".degla_search").glob("features-*"))) < count // ROWS / 2:
        time.sleep(0.1)
    assert job.poll() is None, "the program ended before it could be killed"
    job.send_signal(signal.SIGKILL)
    job.wait()
    return time.perf_counter() - start


def run(folder: Path, *arguments: str) -> tuple[float, str]:
    """Run the program; return its seconds and its output."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "degla.search", f"index={folder}", *arguments]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return time.perf_counter() - start, printed


def number(pattern: str, text: str) -> int:
    """Return the number that a pattern captures."""
    found = re.search(pattern, text)
    assert found is not None, json.dumps(text)
    return int(found[1])


if __name__ == "__main__":
    main()
