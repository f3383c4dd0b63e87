"""The summary of a cross-validation: every validation metric over the folds, beside the text-only baseline."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table
from scipy.stats import t as students_t

from degla.artifacts import atomic_write
from degla.report.page import facts, page, table
from degla.report.run_record import run_facts
from degla.report.run_report import changes
from degla.report.text_only import read_text_only

_FILES = ("folds.html", "folds.json")
_FOLD = "loader.fold"
HEADS = ("metric, percent", "items", "text-only", "before", "after", "change")
RANDOM_WEIGHTS = (
    "The models started from random weights: these numbers test the machinery and say nothing about a method. Set "
    "model.pretrained to measure one."
)


class Scores(BaseModel):
    """One metric: a value for each fold that has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    before: list[float]
    after: list[float]
    text_only: list[float | None]  # None where there is no baseline
    count: list[int | None]  # captions, pairs, or images to choose from


class Group(BaseModel):
    """The folds of one combination of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: list[str]  # overrides, without the fold
    model: str
    has_random_weights: bool
    num_folds: int  # of the settings; fewer have finished where ``folds`` is shorter
    folds: list[int]
    steps: list[int]
    scores: dict[str, Scores]


class Estimate(NamedTuple):
    """A mean over folds with half of its 95 % interval; nan where there are fewer than two folds."""

    mean: float
    half: float

    def __str__(self) -> str:
        half = "" if math.isnan(self.half) else f" ± {100 * self.half:.1f}"
        return "" if math.isnan(self.mean) else f"{100 * self.mean:.1f}{half}"


def estimate(values: Sequence[float | None]) -> Estimate:
    """Return the mean over folds and half of its 95 % interval, by Student's t.

    Args:
        values: one for each fold; if one is None, so is the mean.
    """
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values) or not numbers:
        return Estimate(math.nan, math.nan)
    if len(numbers) < 2:
        return Estimate(numbers[0], math.nan)
    quantile = float(students_t.ppf(0.975, len(numbers) - 1))
    return Estimate(fmean(numbers), quantile * stdev(numbers) / math.sqrt(len(numbers)))


def write_folds(folder: Path) -> list[Group]:
    """Write ``folds.json`` and ``folds.html``.

    Args:
        folder: folder of the sweep; its runs lie below it.

    Returns:
        One group for each combination of settings besides the fold; empty where no run has finished.
    """
    runs = _finished_runs(folder)
    groups = [_group(members) for members in runs.values()]
    if not groups:
        return []
    with atomic_write(folder / "folds.json") as partial:
        record = {"groups": [group.model_dump() for group in groups]}
        partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    made_by = run_facts(next(iter(runs.values()))[0])
    sections = [facts({name: text for name, text in made_by.items() if name not in ("command", "folder")})]
    for group in groups:
        sections += [f"<h2>{_title(group)}</h2>", facts({"settings": " ".join(group.settings), "model": group.model})]
        sections += [f"<p><b>{RANDOM_WEIGHTS}</b></p>"] if group.has_random_weights else []
        sections.append(table(HEADS, fold_rows(group)))
    sections.append(
        "<p>Mean over the folds ± half of its 95 % interval (Student's t). The folds share most of their training "
        "data, so the interval is a guide and no test.</p>"
    )
    (folder / "folds.html").write_text(page(f"cross-validation {folder.parent.name}", sections), encoding="utf-8")
    return groups


def print_folds(groups: list[Group], folder: Path) -> None:
    """Print the tables on the console, and the paths of the files.

    Args:
        groups: what ``write_folds`` returned.
        folder: folder of the sweep.
    """
    console = Console()
    for group in groups:
        shown = Table(title=f"{_title(group)}: {group.model}", box=None, pad_edge=False)
        for head in HEADS:
            shown.add_column(head, justify="left" if head == HEADS[0] else "right", no_wrap=True)
        for row in fold_rows(group):
            shown.add_row(*row)
        console.print(shown)
        if group.has_random_weights:
            console.print(RANDOM_WEIGHTS, highlight=False)
    for name in _FILES if groups else ():
        console.print(str(folder / name), soft_wrap=True, highlight=False, markup=False)


def fold_rows(group: Group) -> list[list[str]]:
    """Return the cells of a group's table, one row for each metric."""
    rows = []
    for name, scores in group.scores.items():
        change = [after - before for before, after in zip(scores.before, scores.after, strict=True)]
        counts = [count for count in scores.count if count is not None]
        estimates = [estimate(values) for values in (scores.text_only, scores.before, scores.after)]
        signed = f"{'+' if fmean(change) >= 0 else ''}{estimate(change)}"
        rows.append([name, str(sum(counts)) if counts else "", *map(str, estimates), signed])
    return rows


def _title(group: Group) -> str:
    return f"{len(group.folds)} of {group.num_folds} folds"


def _finished_runs(folder: Path) -> dict[tuple[str, ...], list[Path]]:
    """Return the settings besides the fold -> folders of the finished runs, in order of the folds."""
    runs: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for finished in sorted(folder.rglob("finished.json")):
        runs[tuple(sorted(_settings(finished.parent)))].append(finished.parent)
    for members in runs.values():
        members.sort(key=lambda run: int(_config(run)["loader"]["fold"]))
    return dict(sorted(runs.items()))


def _settings(run: Path) -> list[str]:
    overrides: list[str] = yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")) or []
    return [text for text in overrides if not text.startswith(f"{_FOLD}=")]


def _group(runs: list[Path]) -> Group:
    configs = [_config(run) for run in runs]
    name, pretrained = configs[0]["model"]["name"], configs[0]["model"]["pretrained"]
    is_random = pretrained is None and not name.startswith(("hf-hub:", "hf://", "local-dir:"))
    scores: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        baseline = read_text_only(run)
        for change in changes(run):
            text_only = baseline.scores.get(change.name) if baseline is not None else None
            values = scores[change.name]
            values["before"].append(change.before)
            values["after"].append(change.after)
            values["text_only"].append(text_only.accuracy if text_only is not None else None)
            values["count"].append(text_only.count if text_only is not None else None)
    return Group(
        settings=_settings(runs[0]),
        model=f"{name}, {'random weights' if is_random else pretrained or 'its own weights'}",
        has_random_weights=is_random,
        num_folds=configs[0]["loader"]["num_folds"],
        folds=[config["loader"]["fold"] for config in configs],
        steps=[json.loads((run / "finished.json").read_text(encoding="utf-8"))["steps"] for run in runs],
        scores={name: Scores(**values) for name, values in scores.items()},
    )


def _config(run: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    return config
