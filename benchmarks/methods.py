"""Train every method for the same number of steps on the built-in scenes: what it learns, forgets and costs.

    python benchmarks/methods.py
    python benchmarks/methods.py --steps 200 --methods clip negclip degla

All methods start from the built-in model and read the same samples at the same learning rate, which no method was tuned
for; so the table shows that each runs and what a step of it costs, not which is best. The step time is the median over
the second half of a run. ``python docs/tables.py`` writes the table of docs/methods.md from the record.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from record import save

from degla.artifacts import read_metrics

METHODS = {
    "clip": [],
    "negclip": ["loader.num_negatives=1"],
    "ce_clip": ["loader.negatives=one_per_type", "loader.num_negatives=5"],
    "degla": [],
    "degla_released": [],
    "fsc_clip": ["adapter=lora_fsc", "teacher=none", "objective.token_focal=0"],  # no class token, so no patch features
    "cs_clip": ["loader.num_negatives=1"],
    "read_align": ["loader.num_negatives=3"],
    "clic_text": ["loader.num_negatives=1"],
    "tsvlc": ["adapter=lora", "teacher=none"],
    "tripletclip": ["loader.num_negatives=1"],
    "con_clip": ["loader.num_negatives=1"],
}  # siglip_degla needs a model with a logit bias, which the built-in one lacks
METRICS = {"compositional": "eval_mean/scenes/compositional", "general": "eval_mean/scenes/general"}


def main() -> None:
    """Measure and save the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--items", type=int, default=200, help="items of each sub-task of the benchmark")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--note", default="", help="what else the machine did; part of the record")
    arguments = parser.parse_args()
    figures = {}
    for method in arguments.methods:
        with tempfile.TemporaryDirectory() as folder:
            figures[method] = measure(method, Path(folder) / "run", arguments.steps, arguments.items)
        print(method, figures[method], flush=True)
    if "clip" in figures:
        for figure in figures.values():
            figure["step_cost"] = figure["step_seconds"] / figures["clip"]["step_seconds"]
    save("methods", {"steps": arguments.steps, "items": arguments.items, "note": arguments.note}, figures)


def measure(method: str, folder: Path, steps: int, items: int) -> dict[str, float]:
    """Train one method, and return its accuracies before and after, and the seconds of a step.

    Args:
        method: a key of ``METHODS``.
        folder: of the run.
        steps: optimizer steps.
        items: items of each sub-task.
    """
    command = [
        *(sys.executable, "-m", "degla.train", "experiment=scenes_finetune", f"objective={method}"),
        *("data.further_columns=true", f"trainer.max_steps={steps}", f"benchmark.scenes.num_items={items}"),
        *("loader.num_workers=0", "trainer.log_every_n_steps=1", "callbacks.progress_bar=null"),
        *("callbacks.export=null", f"run_dir={folder}", *METHODS[method]),
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    metrics = read_metrics(folder / "metrics.csv")
    rates = metrics["train/samples_per_second"]
    figures = {"step_seconds": 32 / statistics.median([rate for step, rate in rates.items() if step > steps // 2])}
    for name, metric in METRICS.items():
        values = metrics[metric]
        figures |= {f"{name}_before": values[min(values)], name: values[max(values)]}
    return figures


if __name__ == "__main__":
    main()
