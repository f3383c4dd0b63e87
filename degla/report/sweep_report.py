"""The summary of a sweep: a table with one row per job, best first, and a plot of each setting that varies."""

import csv
import json
import math
from pathlib import Path
from typing import NamedTuple

import yaml
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from degla.artifacts import atomic_write
from degla.report.figures import embedded_png, png_bytes
from degla.report.page import facts, headline, page, table
from degla.report.run_record import run_facts

_FILES = ("sweep.html", "sweep.csv", "sweep.png")


class Job(NamedTuple):
    """One job of a sweep."""

    folder: str  # relative to the sweep's
    settings: dict[str, str]  # its overrides
    value: float  # nan if it has not finished
    steps: int
    state: str  # finished or stopped


def write_sweep(folder: Path) -> list[Job]:
    """Write ``sweep.csv``, ``sweep.png`` and ``sweep.html``.

    Args:
        folder: folder of the sweep; its jobs lie below it.

    Returns:
        The jobs, best first.
    """
    jobs = sorted(_read_jobs(folder), key=lambda job: (math.isnan(job.value), -job.value))
    if not jobs:
        return []
    varied = _varied(jobs)
    with atomic_write(folder / "sweep.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*varied, "value", "steps", "state", "folder"])
        writer.writerows([*(job.settings.get(key, "") for key in varied), *job[2:], job.folder] for job in jobs)
    figure = _plot(jobs, varied)
    (folder / "sweep.png").write_bytes(png_bytes(figure))
    (folder / "sweep.html").write_text(_page(jobs, varied, folder, figure), encoding="utf-8")
    return jobs


def print_sweep(jobs: list[Job], folder: Path) -> None:
    """Print the table on the console, and the paths of the files.

    Args:
        jobs: what ``write_sweep`` returned.
        folder: folder of the sweep.
    """
    varied = _varied(jobs)
    shown = Table(*varied, "value", "steps", "state", title=f"{len(jobs)} jobs in {folder}")
    for job in jobs:
        shown.add_row(*_cells(job, varied))
    console = Console()
    console.print(shown)
    for name in _FILES:
        console.print(str(folder / name), soft_wrap=True, highlight=False, markup=False)


def _page(jobs: list[Job], varied: list[str], folder: Path, figure: Figure) -> str:
    finished = [job for job in jobs if not math.isnan(job.value)]
    numbers = {"finished jobs": f"{sum(job.state == 'finished' for job in jobs)} of {len(jobs)}"}
    if finished:
        best = ", ".join(f"{key}={finished[0].settings.get(key, '')}" for key in varied) or finished[0].folder
        numbers = {f"best value, {best}": f"{finished[0].value:.4f}", **numbers}
    made_by = run_facts(folder / jobs[0].folder) | {"folder": str(folder)}
    sections = [
        headline(numbers),
        facts({f"{name} of the best job" if name == "command" else name: text for name, text in made_by.items()}),
        "<h2>Jobs</h2>",
        table([*varied, "value", "steps", "state", "folder"], [[*_cells(job, varied), job.folder] for job in jobs]),
        "<h2>Value by setting</h2>",
        embedded_png(figure, "the value of each job over each setting that varies"),
    ]
    return page(f"sweep {folder.name}", sections)


def _cells(job: Job, varied: list[str]) -> list[str]:
    value = "" if math.isnan(job.value) else f"{job.value:.4f}"
    return [*(job.settings.get(key, "") for key in varied), value, str(job.steps), job.state]


def _read_jobs(folder: Path) -> list[Job]:
    jobs = []
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
            jobs.append(Job(name, settings, value, finished["steps"], "finished"))
        else:
            steps = [int(path.stem[5:]) for path in (run / "checkpoints").glob("step-*.ckpt")]
            jobs.append(Job(name, settings, math.nan, max(steps, default=0), "stopped"))
    return jobs


def _varied(jobs: list[Job]) -> list[str]:
    keys = dict.fromkeys(key for job in jobs for key in job.settings)
    return [key for key in keys if len({job.settings.get(key) for job in jobs}) > 1]


def _plot(jobs: list[Job], varied: list[str]) -> Figure:
    """Draw one panel per setting that varies, with the values of the finished jobs."""
    finished = [job for job in jobs if not math.isnan(job.value)]
    figure = Figure(figsize=(4 * max(1, len(varied)), 3.5), layout="constrained")
    panels = figure.subplots(1, max(1, len(varied)), squeeze=False)[0]
    for axes, key in zip(panels, varied, strict=False):  # without a varied setting the one panel stays empty
        texts = [job.settings.get(key, "") for job in finished]
        try:
            numbers = [float(text) for text in texts]
        except ValueError:
            axes.scatter(texts, [job.value for job in finished], s=18)
        else:
            if numbers and min(numbers) > 0 and max(numbers) > 10 * min(numbers):
                axes.set_xscale("log")
            axes.scatter(numbers, [job.value for job in finished], s=18)
        axes.set_xlabel(key)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("value")
    return figure
