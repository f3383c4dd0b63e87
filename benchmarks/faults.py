"""Let a run of two ranks with two workers each fail at random until it is done, and count what is lost.

    python benchmarks/faults.py --kills 100
    python benchmarks/faults.py --kills 20 --stream       # from uneven Parquet shards
    python benchmarks/faults.py --kills 20 --asynchronous # checkpoints that a thread writes

The same run without kills gives the weights that the killed run must end with, to the last bit.
"""

import argparse
import contextlib
import csv
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from record import save
from tqdm import tqdm

from degla.artifacts import newest_checkpoint


class Fault(NamedTuple):
    """What goes wrong in one start of the run."""

    target: Literal["rank 0", "rank 1", "worker", "all", "none"]  # who gets the signal
    number: signal.Signals = signal.SIGKILL
    damage: Literal["", "truncate", "flip"] = ""  # to the newest checkpoint, afterwards
    surroundings: Literal["", "full disk", "read-only", "removed", "small shm"] = ""


_FAULTS = {
    "kill -9 of rank 0": Fault("rank 0"),
    "kill -9 of rank 1": Fault("rank 1"),
    "kill -9 of a worker": Fault("worker"),
    "SIGTERM to rank 0": Fault("rank 0", signal.SIGTERM),
    "SIGTERM to rank 1": Fault("rank 1", signal.SIGTERM),
    "SIGTERM to every process": Fault("all", signal.SIGTERM),
    "SIGINT to every process (Ctrl-C)": Fault("all", signal.SIGINT),
    "SIGHUP to every process (closed terminal)": Fault("all", signal.SIGHUP),
    "kill -9 of all, newest checkpoint truncated": Fault("all", damage="truncate"),
    "kill -9 of all, newest checkpoint with a flipped bit": Fault("all", damage="flip"),
    "disk full at the next checkpoint": Fault("none", surroundings="full disk"),
    "read-only run folder": Fault("none", surroundings="read-only"),
    "run folder moved away": Fault("none", surroundings="removed"),
    "/dev/shm of 64 KiB, then SIGTERM": Fault("rank 0", signal.SIGTERM, surroundings="small shm"),
}
# Shell commands that prepare the surroundings in a mount namespace of the run's own; they need root.
_MOUNTS = {
    "read-only": "mount --bind runs runs && mount -o remount,bind,ro runs",
    "small shm": "mount -t tmpfs -o size=64k tmpfs /dev/shm",
}
_ROWS, _BATCH = 44, 4


def main() -> None:
    """Kill the run, and save the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--stream", action="store_true", help="read shards instead of a table")
    parser.add_argument("--asynchronous", action="store_true", help="write checkpoints in a thread")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        command = _command(root, arguments)
        for name in ("undisturbed", "killed"):
            (root / name).mkdir()
        started = time.time()
        subprocess.run(command, cwd=root / "undisturbed", env=_environment(), check=True, capture_output=True)
        figures = {"undisturbed_seconds": time.time() - started}
        tries, survived = Counter(), Counter()
        starts = 0
        with tqdm(total=arguments.kills, desc="Killing") as bar:
            while not _is_finished(root / "killed"):
                starts += 1
                fault = rng.choice(list(_FAULTS)) if sum(tries.values()) < arguments.kills else None
                process = _start(command, root / "killed", _FAULTS[fault].surroundings if fault else "")
                if fault is None:
                    errors = process.communicate(timeout=900)[1]
                    if process.returncode:
                        raise SystemExit(f"the last start failed: {errors[-2000:]}")
                    continue
                must_progress = _FAULTS[fault].surroundings not in ("read-only", "full disk")
                if must_progress and not _wait(process, root / "killed", rng):
                    continue  # the run ended before the kill
                ended = _inject(process, root / "killed", _FAULTS[fault], rng)
                tries[fault] += 1
                survived[fault] += ended  # whether the next start resumes shows in the steps
                bar.update()
        undisturbed, killed = (_state(root / name) for name in ("undisturbed", "killed"))
        steps = Counter(_logged_steps(root / "killed"))
        figures |= {
            "faults": {name: {"tries": tries[name], "survived": survived[name]} for name in _FAULTS},
            "starts": starts,
            "bit_equal": all(torch.equal(value, killed[name]) for name, value in undisturbed.items()),
            "steps_made_again": sum(count - 1 for count in steps.values()),
            # A kill between a checkpoint and the log line of its step loses the line, not the step.
            "steps_without_a_line_in_the_log": len(set(range(arguments.steps)) - set(steps)),
        }
    name = "faults" + "_stream" * arguments.stream + "_asynchronous" * arguments.asynchronous
    save(name, vars(arguments), figures)


def _command(root: Path, arguments: argparse.Namespace) -> list[str]:
    rng = np.random.default_rng(0)
    (root / "photos" / "images").mkdir(parents=True)
    lines = []
    for i in range(_ROWS):
        path = root / "photos" / "images" / f"{i}.jpg"
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((80, 80)).save(path)
        lines.append({"image": f"images/{i}.jpg", "caption": f"photo number {i}", "negatives": [f"number {i} photo"]})
    (root / "photos" / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = [f"data.path={root / 'photos'}", f"loader.epochs={arguments.steps * _BATCH // _ROWS}"]
    if arguments.stream:
        for shard, rows in enumerate((lines[:5], lines[5:20], lines[20:])):
            images = [{"bytes": (root / "photos" / row["image"]).read_bytes(), "path": None} for row in rows]
            columns = {key: [row[key] for row in rows] for key in ("caption", "negatives")}
            pq.write_table(pa.table({"image": images, **columns}), root / f"{shard}.parquet", row_group_size=4)
        data = ["data=hub_stream", "data.path=parquet", f"data.data_files={root}/*.parquet", "loader.val_fraction=0"]
    return [
        sys.executable, "-m", "degla.train", "model=tiny", *data, f"trainer.max_steps={arguments.steps}",
        "loader.num_negatives=1", f"loader.global_batch_size={_BATCH}", "loader.num_workers=2", "strategy=ddp",
        "trainer.devices=2", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "callbacks.progress_bar=null",
        "callbacks.checkpoint.every_n_steps=3", "callbacks.export=null", "callbacks.batch_images=null",
        "teacher.decay=0.9", "optimizer.lr=1e-3", "ckpt_path=last",
        f"callbacks.checkpoint.asynchronous={str(arguments.asynchronous).lower()}",
    ]  # fmt: skip


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def _run(folder: Path) -> Path:
    """Return the newest run folder; a start that was killed before its first checkpoint leaves one as well."""
    return max(folder.glob("runs/train/*/metrics.csv"), key=lambda path: path.stat().st_mtime).parent


def _is_finished(folder: Path) -> bool:
    return bool(list(folder.glob("runs/train/*/finished.json")))


def _logged_steps(folder: Path) -> list[int]:
    steps = []
    for path in folder.glob("runs/train/*/metrics.csv"):
        with path.open(newline="") as file:
            steps += [int(row["step"]) for row in csv.DictReader(file) if row["name"] == "train/loss"]
    return steps


def _wait(process: subprocess.Popen, folder: Path, rng: random.Random) -> bool:
    """Wait until the run has made progress and a random time more; return False where it ended."""
    lines = len(_logged_steps(folder))
    while len(_logged_steps(folder)) < lines + 2:
        if process.poll() is not None:
            return False
        time.sleep(0.05)
    time.sleep(rng.uniform(0, 0.6))
    return process.poll() is None


def _start(command: list[str], folder: Path, surroundings: str) -> subprocess.Popen:
    """Start the run, in surroundings that make it fail where a fault is about those."""

    def limit_files() -> None:
        checkpoints = list(folder.glob("runs/train/*/checkpoints/step-*.ckpt"))
        if surroundings == "full disk" and checkpoints:
            size = checkpoints[0].stat().st_size // 2
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    if surroundings in _MOUNTS:
        (folder / "runs").mkdir(exist_ok=True)
        command = ["unshare", "-m", "sh", "-c", f'{_MOUNTS[surroundings]} && exec "$@"', "sh", *command]
    return subprocess.Popen(command, cwd=folder, env=_environment(), start_new_session=True, preexec_fn=limit_files,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip


def _inject(process: subprocess.Popen, folder: Path, fault: Fault, rng: random.Random) -> bool:
    """Inject the fault, and return whether all processes ended in time, those of bad surroundings with exit code 2."""
    ranks = [process.pid, *(pid for pid in _children(process.pid) if b"LOCAL_RANK=1\0" in _read(pid, "environ"))]
    workers = [pid for rank in ranks for pid in _children(rank) if pid not in ranks]
    if fault.surroundings == "removed":
        shutil.move(folder / "runs", folder / "moved")
    if fault.target == "all":
        os.killpg(process.pid, fault.number)
    elif fault.target != "none":
        targets = {"rank 0": ranks[0], "rank 1": ranks[-1], "worker": rng.choice(workers or ranks)}
        os.kill(targets[fault.target], fault.number)
    try:
        process.communicate(timeout=120)
        ended = fault.target != "none" or process.returncode == 2
    except subprocess.TimeoutExpired:
        ended = False
    time.sleep(0.3)
    remaining = [pid for pid in (*ranks, *workers) if b"degla" in _read(pid, "cmdline")]
    deadline = time.time() + 30
    while remaining and time.time() < deadline:
        time.sleep(0.2)
        remaining = [pid for pid in remaining if b"degla" in _read(pid, "cmdline")]
    for pid in (process.pid, *remaining):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL) if pid == process.pid else os.kill(pid, signal.SIGKILL)
    if fault.surroundings == "removed":
        shutil.rmtree(folder / "runs", ignore_errors=True)
        shutil.move(folder / "moved", folder / "runs")
    newest = newest_checkpoint(_run(folder) / "checkpoints") if fault.damage else None
    if newest is not None and fault.damage == "truncate":
        os.truncate(newest, rng.randrange(newest.stat().st_size))
    elif newest is not None:
        content = bytearray(newest.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        newest.write_bytes(content)
    return ended and not remaining


def _children(pid: int) -> list[int]:
    children = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == pid:
            children.append(int(path.name))
    return children


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _state(folder: Path) -> dict:
    path = newest_checkpoint(_run(folder) / "checkpoints")
    return torch.load(path, weights_only=True)["state_dict"]


if __name__ == "__main__":
    main()
