"""Time the real program: Trainer, loader, logging and callbacks, not a bare loop.

    python benchmarks/train.py --data <folder with negatives.jsonl and images/>
    python benchmarks/train.py --data ... --batch-size 256 --precision bf16-mixed --num-workers 8     # on a GPU

``degla-train`` runs with its default callbacks and loggers. The record holds samples per second and the share of time
in which the training loop waits for a batch; on a GPU also the host-device synchronisations of the measured steps.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from record import save, spread

HERE = Path(__file__).parent


def main() -> None:
    """Measure and save the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with negatives.jsonl and images/")
    parser.add_argument("--model", default="vit_b_32", help="option of the group model; the weights are random")
    parser.add_argument("--objective", default="degla")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--num-negatives", type=int, default=4)
    parser.add_argument("--num-workers", type=int, default=1)
    parser.add_argument("--precision", default="32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--warm-up", type=int, default=3, help="150 on a GPU, where each new shape costs time")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--note", default="", help="what else the machine did; part of the record")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [measure(arguments, Path(folder)) for _ in range(arguments.repeats)]
    figures = {
        "samples_per_second": spread([run["samples"] / run["seconds"] for run in runs]),
        "share_of_time_waiting_for_input": spread([run["waiting_seconds"] / run["seconds"] for run in runs]),
    }
    if "syncs" in runs[0]:
        figures["syncs_per_step"] = spread([run["syncs"] / arguments.steps for run in runs])
    settings = {key: value for key, value in vars(arguments).items() if key != "data"}
    name = "train_gpu" if torch.cuda.is_available() else "train"
    save(name if arguments.model == "vit_b_32" else f"{name}_{arguments.model}", settings, figures)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run ``degla-train`` once and return what the probe has written.

    Args:
        arguments: command line.
        folder: of the run and its caches.
    """
    result = folder / "probe.json"
    result.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "degla.train", f"runs_dir={folder / 'runs'}"),
        *(f"data.path={arguments.data.resolve()}", "data.annotations=negatives.jsonl", "data.image_root=images"),
        *(f"model={arguments.model}", "model.pretrained=null", f"objective={arguments.objective}"),
        f"loader.global_batch_size={arguments.batch_size}",
        f"loader.num_negatives={arguments.num_negatives}",
        f"loader.num_workers={arguments.num_workers}",
        *("loader.val_fraction=0.01", "loader.epochs=1000", "trainer.num_sanity_val_steps=0"),
        *(f"precision={arguments.precision}", f"compile={str(arguments.compile).lower()}"),
        "+trainer.profiler=simple",
        "+callbacks.probe._target_=run_probe.RunProbe",
        f"+callbacks.probe.path={result}",
        f"+callbacks.probe.warm_up={arguments.warm_up}",
        f"+callbacks.probe.steps={arguments.steps}",
    ]
    path = os.pathsep.join([str(HERE.parent.resolve()), str(HERE.resolve())])
    environment = os.environ | {"PYTHONPATH": path, "HF_DATASETS_CACHE": str(folder / "datasets")}
    environment |= {"DEGLA_TARGETS": "run_probe.RunProbe"}
    log = folder / "log.txt"
    with log.open("w") as output:
        subprocess.run(command, env=environment, cwd=folder, stdout=output, stderr=output, check=False)
    if not result.is_file():
        raise SystemExit(f"the run ended before its last measured step:\n{log.read_text()[-4000:]}")
    measured: dict[str, Any] = json.loads(result.read_text())
    return measured


if __name__ == "__main__":
    main()
