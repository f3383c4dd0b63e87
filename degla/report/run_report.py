"""The report of a training run: before and after, curves, and the samples that could not be used."""

import csv
import html
import json
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from degla.artifacts import read_metrics
from degla.report.examples import examples_section
from degla.report.figures import embedded_png
from degla.report.memory import memory_section
from degla.report.page import Bar, bars, facts, headline, page, table
from degla.report.retention import retention_section
from degla.report.run_record import duration, run_facts
from degla.report.text_only import TextOnlyRecord, read_text_only

_MAX_EXAMPLES = 20  # samples shown for each kind of problem
_STAGES = {"eval": "Benchmark before and after", "val": "Validation samples before and after"}
_EXPLANATIONS = {
    "eval": "Each sub-task: share of images that score higher with their caption than with any false one, or with "
    "their class than with any other; a tie counts as wrong. Below them, means of sub-tasks.",
    "val": "caption_choice: share of captions that score higher than every one of their own negatives; a tie counts "
    "as wrong. The others: retrieval among the validation samples.",
}
_TEXT_ONLY = (
    "text-only: the same without the images. A classifier of texts, trained on the training samples, chooses the "
    "caption; for retrieval, every query gets the same ranking."
)
_SCORE_CURVES = (
    *("val/caption_choice", "val/image_to_text_r@1", "val/text_to_image_r@1"),
    *("eval_mean/scenes/compositional", "eval_mean/scenes/general", "eval_mean/overall"),
)


class Change(NamedTuple):
    """A metric of the student before and after training, as fractions in [0, 1]."""

    name: str
    before: float
    after: float


def changes(run_dir: Path, stage: str = "val") -> list[Change]:
    """Return the first and last value of each metric ``<stage>/...`` that has two values.

    Args:
        run_dir: folder of the run.
        stage: ``val``, the validation samples; ``eval``, the subsets of benchmarks; ``eval_mean``, their means.
    """
    pairs = []
    for name, values in _metrics(run_dir).items():
        if name.startswith(f"{stage}/") and len(values) > 1:
            steps = list(values)
            pairs.append(Change(name.removeprefix(f"{stage}/"), values[steps[0]], values[steps[-1]]))
    return sorted(pairs, key=_choice_before_retrieval) if stage == "val" else pairs


def _choice_before_retrieval(change: Change) -> tuple[bool, str, int]:
    """Sort R@5 before R@10, which plain text would not."""
    name, _, k = change.name.partition("@")
    return not name.startswith("caption_choice"), name, int(k or 0)


def bad_rows(run_dir: Path) -> dict[str, list[dict[str, str]]]:
    """Return the records of all ``bad_rows*.csv`` (one file per process) by problem, each row of the data once."""
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for path in sorted(run_dir.glob("bad_rows*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for record in csv.DictReader(file):
                action = "skipped" if record["skipped"] == "yes" else "used"
                group = groups[f"{record['reason'].split(': ')[0]} ({action})"]
                if record not in group:
                    group.append(record)
    return dict(groups)


def write_report(run_dir: Path) -> Path:
    """Write ``report.html``, one file with everything in it, and return its path."""
    sections = [headline(_headline(run_dir)), facts(run_facts(run_dir))]
    for stage, title in _STAGES.items():
        metrics = _with_means(run_dir, stage)
        if metrics:
            sections.append(f"<h2>{title}, percent</h2>")
            sections.append(_bars(changes(run_dir, stage)) if stage == "eval" else "")
            baseline = read_text_only(run_dir) if stage == "val" else None
            sections.append(_table(metrics, stage, baseline) + f"<p>{_EXPLANATIONS[stage]}</p>")
            sections.append(f"<p>{_TEXT_ONLY}</p>" if baseline else "")
    sections.append(examples_section(run_dir))
    sections.append(retention_section(run_dir))
    sections.append("<h2>Curves</h2>" + _curves(run_dir))
    sections.append(memory_section(run_dir))
    sections.append("<h2>Data</h2>" + (_bad_row_tables(run_dir) or "<p>Every sample was used without changes.</p>"))
    config = run_dir / "config.yaml"
    if config.exists():
        sections.append(f"<h2>Config</h2><pre>{html.escape(config.read_text(encoding='utf-8'))}</pre>")
    path = run_dir / "report.html"
    path.write_text(page(f"{run_dir.parent.name} {run_dir.name}", sections), encoding="utf-8")
    return path


def _headline(run_dir: Path) -> dict[str, str]:
    """Return the few numbers that matter most: means of benchmarks, else caption choice, and the length of the run."""
    means = {change.name: change for change in changes(run_dir, "eval_mean")}
    wanted = [means[name] for name in means if name.endswith(("compositional", "general"))] or list(means.values())[:2]
    wanted += [change for change in changes(run_dir, "val") if change.name == "caption_choice"]
    numbers = {change.name: f"{100 * change.before:.1f} → {100 * change.after:.1f}" for change in wanted}
    if (run_dir / "finished.json").is_file():
        numbers["optimizer steps"] = str(json.loads((run_dir / "finished.json").read_text(encoding="utf-8"))["steps"])
    elif steps := [step for values in _losses(run_dir).values() for step in values]:
        numbers["last logged step"] = str(max(steps))
    if seconds := duration(run_dir):
        numbers["duration"] = seconds
    return numbers


def _with_means(run_dir: Path, stage: str) -> list[Change]:
    """Return the metrics that the table of a stage shows; the means of benchmarks follow their subsets."""
    return changes(run_dir, stage) + (changes(run_dir, "eval_mean") if stage == "eval" else [])


def _table(metrics: list[Change], stage: str, baseline: TextOnlyRecord | None) -> str:
    lines = [
        [
            m.name,
            *([baseline.cell(m.name)] if baseline else []),
            *(f"{100 * m.before:.1f}", f"{100 * m.after:.1f}", f"{100 * (m.after - m.before):+.1f}"),
        ]
        for m in metrics
    ]
    return table([stage, *(["text-only"] if baseline else []), "before", "after", "change"], lines)


def _bars(metrics: list[Change]) -> str:
    """Draw every sub-task before and after, under the name of its benchmark or family."""
    groups: dict[str, list[Bar]] = defaultdict(list)
    for change in metrics:
        family, _, name = change.name.rpartition("/")
        groups[family] += [Bar(f"{name}, before", change.before), Bar(f"{name}, after", change.after, series=1)]
    return bars(groups)


def _losses(run_dir: Path) -> dict[str, dict[int, float]]:
    return {name: values for name, values in _metrics(run_dir).items() if name.startswith("train/loss")}


def _metrics(run_dir: Path) -> dict[str, dict[int, float]]:
    path = run_dir / "metrics.csv"
    return read_metrics(path) if path.exists() else {}


def _curves(run_dir: Path) -> str:
    losses = _losses(run_dir)
    scores = {name: values for name, values in _metrics(run_dir).items() if name in _SCORE_CURVES}
    panels = [(name, curves) for name, curves in (("training losses", losses), ("validation", scores)) if curves]
    note = ""
    if not losses:
        note = "<p>No loss was logged: the run has fewer steps than <code>trainer.log_every_n_steps</code>.</p>"
    if not panels:
        return note
    figure = Figure(figsize=(5.5 * len(panels), 4), layout="constrained")
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_curves(axes, title, curves)
    return embedded_png(figure, "curves of losses and scores over the optimizer steps") + note


def _draw_curves(axes: Axes, title: str, curves: dict[str, dict[int, float]]) -> None:
    for name, values in curves.items():
        axes.plot(list(values), list(values.values()), label=name, marker="." if len(values) < 20 else None)
    axes.set(title=title, xlabel="optimizer step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # a run of three steps has no step 0.5
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    if title == "training losses":
        axes.set_yscale("symlog", linthresh=0.1)


def _bad_row_tables(run_dir: Path) -> str:
    parts = []
    for problem, records in bad_rows(run_dir).items():
        lines = [[record["row"], record["reason"]] for record in records[:_MAX_EXAMPLES]]
        more = f"<p>and {len(records) - _MAX_EXAMPLES} more in bad_rows.csv</p>" if len(records) > _MAX_EXAMPLES else ""
        parts.append(f"<h3>{len(records)} {html.escape(problem)}</h3>{table(['row', 'reason'], lines)}{more}")
    return "".join(parts)
