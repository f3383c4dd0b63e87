"""What a sweep found: a line a job, best first, and an image a setting."""

import csv
import json
import math
from pathlib import Path
from typing import NamedTuple

import yaml
from rich.console import Console
from rich.table import Table


class Job(NamedTuple):
    """One job of a sweep."""

    folder: str
    settings: dict[str, str]  # its overrides
    value: float  # nan where it has not finished
    steps: int
    state: str  # finished, or stopped


def write_sweep(folder: Path) -> list[Job]:
    """Write ``sweep.csv`` and ``sweep.png``.

    Returns:
        The jobs, best first.
    """
    jobs = sorted(_jobs(folder), key=lambda job: (math.isnan(job.value), -job.value))
    if not jobs:
        return []
    varied = _varied(jobs)
    with (folder / "sweep.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow([*varied, "value", "steps", "state", "folder"])
        rows.writerows([*(job.settings.get(key, "") for key in varied), *job[2:], job.folder] for job in jobs)
    _draw(jobs, varied, folder / "sweep.png")
    return jobs


def print_sweep(jobs: list[Job], folder: Path) -> None:
    """The same on the console."""
    varied = _varied(jobs)
    table = Table(*varied, "value", "steps", "state", title=f"{len(jobs)} jobs in {folder}")
    for job in jobs:
        value = "" if math.isnan(job.value) else f"{job.value:.4f}"
        table.add_row(*(job.settings.get(key, "") for key in varied), value, str(job.steps), job.state)
    console = Console()
    console.print(table)
    for name in ("sweep.csv", "sweep.png"):
        console.print(str(folder / name), soft_wrap=True, highlight=False, markup=False)


def _jobs(folder: Path) -> list[Job]:
    found = []
    for config in sorted(folder.rglob("config.yaml")):
        run = config.parent
        if run.name == ".hydra" or not (run / ".hydra" / "overrides.yaml").is_file():
            continue
        overrides = yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")) or []
        settings = dict(override.lstrip("+").partition("=")[::2] for override in overrides)
        name = str(run.relative_to(folder))
        if (run / "finished.json").is_file():
            finished = json.loads((run / "finished.json").read_text(encoding="utf-8"))
            value = finished["value"] if finished["value"] is not None else math.nan
            found.append(Job(name, settings, value, finished["steps"], "finished"))
        else:
            steps = [int(path.stem[5:]) for path in (run / "checkpoints").glob("step-*.ckpt")]
            found.append(Job(name, settings, math.nan, max(steps, default=0), "stopped"))
    return found


def _varied(jobs: list[Job]) -> list[str]:
    keys = dict.fromkeys(key for job in jobs for key in job.settings)
    return [key for key in keys if len({job.settings.get(key) for job in jobs}) > 1]


def _draw(jobs: list[Job], varied: list[str], path: Path) -> None:
    from matplotlib.figure import Figure

    finished = [job for job in jobs if not math.isnan(job.value)]
    figure = Figure(figsize=(4 * max(1, len(varied)), 3.5), layout="constrained")
    axes = figure.subplots(1, max(1, len(varied)), squeeze=False)[0]
    for axis, key in zip(axes, varied, strict=False):
        values = [job.settings.get(key, "") for job in finished]
        try:
            numbers = [float(value) for value in values]
            if min(numbers) > 0 and max(numbers) > 10 * min(numbers):
                axis.set_xscale("log")
        except ValueError:
            numbers = values
        axis.scatter(numbers, [job.value for job in finished], s=18)
        axis.set_xlabel(key)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("value")
    figure.savefig(path, dpi=120)
