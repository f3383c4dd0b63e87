"""Measure time and memory from the command to the end of the first training step, cold and warm.

    python benchmarks/start.py --data <folder with negatives.jsonl and images/> --rows 100000
    python benchmarks/start.py --demo

Cold: nothing of the data is cached. Warm: the same command again. The table repeats the rows of ``--data`` under new
image names, so that it has ``--rows`` distinct images. The model is the tiny one; a larger one takes longer to load.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import save, spread

HERE = Path(__file__).parent


def main() -> None:
    """Measure and save the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with negatives.jsonl and images/")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--demo", action="store_true", help="experiment=demo in place of a table")
    parser.add_argument("--val-fraction", type=float, default=0.01)
    parser.add_argument("--warm-repeats", type=int, default=3)
    parser.add_argument("--checkout", type=Path, default=HERE.parent, help="folder of the code to measure")
    parser.add_argument("--note", default="", help="what else the machine did; part of the record")
    arguments = parser.parse_args()
    if not arguments.demo and arguments.data is None:
        parser.error("--data or --demo is needed")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        overrides = ["experiment=demo"] if arguments.demo else table_overrides(arguments, folder)
        cold = first_step(arguments.checkout, overrides, folder)
        warm = [first_step(arguments.checkout, overrides, folder) for _ in range(arguments.warm_repeats)]
        cached = sum(file.stat().st_size for file in (folder / "datasets").rglob("*") if file.is_file())
    figures = {
        "cold_seconds": cold["seconds"],
        "warm_seconds": spread([run["seconds"] for run in warm]),
        "cold_cpu_seconds": cold["cpu_seconds"],
        "warm_cpu_seconds": spread([run["cpu_seconds"] for run in warm]),
        "cold_memory": {key: cold[key] for key in ("VmHWM", "VmRSS", "RssAnon")},
        "warm_memory": {key: statistics.median(run[key] for run in warm) for key in ("VmHWM", "VmRSS", "RssAnon")},
        "cache_bytes": cached,
    }
    keys = ("val_fraction", "note") if arguments.demo else ("rows", "val_fraction", "note")
    settings = {key: getattr(arguments, key) for key in keys}
    if arguments.checkout.resolve() != HERE.parent.resolve():
        print(json.dumps({"settings": settings, "figures": figures}, indent=1))
        return
    save("start_demo" if arguments.demo else f"start_{arguments.rows}", settings, figures)


def table_overrides(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """Write the table into ``folder``, and return the overrides of a run on it.

    Args:
        arguments: command line.
        folder: of the table and of links to the images.
    """
    rows = [json.loads(line) for line in (arguments.data / "negatives.jsonl").read_text("utf-8").splitlines()]
    images = (arguments.data / "images").resolve()
    # A hundred folders of links, because a link for each row would take longer than the run.
    for number in range(1 + arguments.rows // len(rows)):
        (folder / f"images_{number}").symlink_to(images)
    with (folder / "captions.jsonl").open("w", encoding="utf-8") as file:
        for number, row in zip(range(arguments.rows), itertools.cycle(rows), strict=False):
            image = f"images_{number // len(rows)}/{row['image']}"
            line = {"image": image, "caption": row["caption"], "negatives": row["negatives"]}
            file.write(json.dumps(line) + "\n")
    return [
        f"data.path={folder}",
        "data.annotations=captions.jsonl",
        f"loader.val_fraction={arguments.val_fraction}",
        "loader.global_batch_size=32",
        "loader.num_workers=2",
        "model=tiny",
        "trainer.num_sanity_val_steps=0",
    ]


def first_step(checkout: Path, overrides: list[str], folder: Path) -> dict[str, Any]:
    """Run ``degla-train`` until its first step is done, and return seconds and bytes.

    Args:
        checkout: folder of the code.
        overrides: of the command line.
        folder: of caches and run folders.
    """
    result = folder / "first_step.json"
    result.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "degla.train", *overrides),
        f"runs_dir={folder / 'runs'}",
        "+callbacks.first_step._target_=first_step.FirstStep",
        f"+callbacks.first_step.path={result}",
    ]
    path = os.pathsep.join([str(checkout.resolve()), str(HERE.resolve())])
    environment = os.environ | {"PYTHONPATH": path, "HF_DATASETS_CACHE": str(folder / "datasets")}
    environment |= {"DEGLA_TARGETS": "first_step.FirstStep"}
    start = time.time()
    log = folder / "log.txt"
    with log.open("w") as output:
        subprocess.run(command, env=environment, cwd=folder, stdout=output, stderr=output, check=False)
    if not result.is_file():
        raise SystemExit(f"the run ended before its first step:\n{log.read_text()[-4000:]}")
    measured = json.loads(result.read_text())
    return {"seconds": measured.pop("time") - start, **measured}


if __name__ == "__main__":
    main()
