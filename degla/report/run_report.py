"""What a run did: before and after on the validation rows, curves, and the rows it could not use."""

import csv
import html
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from degla.artifacts import read_metrics
from degla.report.figures import embedded_png

_EXAMPLES = 20  # rows shown of each kind of problem


class Change(NamedTuple):
    """A metric of the untouched student and of the trained one, fractions in [0, 1]."""

    name: str
    before: float
    after: float


def changes(run_dir: Path, stage: str = "val") -> list[Change]:
    """First and last value of each metric ``<stage>/...``; empty where there are no two.

    Args:
        run_dir: folder of the run.
        stage: ``val``, the validation rows; ``eval``, the subsets of benchmarks; ``eval_mean``, their means.
    """
    path = run_dir / "metrics.csv"
    metrics = read_metrics(path) if path.exists() else {}
    rows = []
    for name, values in metrics.items():
        if name.startswith(f"{stage}/") and len(values) > 1:
            steps = list(values)
            rows.append(Change(name.removeprefix(f"{stage}/"), values[steps[0]], values[steps[-1]]))
    return sorted(rows, key=_order) if stage == "val" else rows


def _order(row: Change) -> tuple:
    """Choice before retrieval; R@5 before R@10."""
    name, _, k = row.name.partition("@")
    return not name.startswith("caption_choice"), name, int(k or 0)


def bad_rows(run_dir: Path) -> dict[str, list[dict[str, str]]]:
    """Records of ``bad_rows.csv``, of all processes, by what is wrong with them; a row is named once."""
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for path in sorted(run_dir.glob("bad_rows*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for record in csv.DictReader(file):
                action = "skipped" if record["skipped"] == "yes" else "used"
                group = groups[f"{record['reason'].split(': ')[0]} ({action})"]
                if record not in group:
                    group.append(record)
    return dict(groups)


def print_report(run_dir: Path) -> None:
    """The table on the console, and where everything else is."""
    console = Console()
    for stage, title in _STAGES.items():
        rows = _rows(run_dir, stage)
        if not rows:
            continue
        last_subset = len(changes(run_dir, "eval")) - 1 if stage == "eval" else None
        table = Table(stage, "before", "after", "change", title=f"{title}, percent")
        for place, row in enumerate(rows):
            delta = 100 * (row.after - row.before)
            colour = "green" if delta > 0 else "red" if delta < 0 else "white"
            cells = f"{100 * row.before:.1f}", f"{100 * row.after:.1f}", f"[{colour}]{delta:+.1f}[/{colour}]"
            table.add_row(row.name, *cells, end_section=place == last_subset)
        console.print(table)
    for what, records in bad_rows(run_dir).items():
        console.print(f"{len(records)} row(s): {what}, such as {records[0]['row']}", markup=False, highlight=False)
    places = {"report": run_dir / "report.html"}
    if (run_dir / "model").is_dir():
        places["model"] = f"{run_dir / 'model'}  (open_clip: local-dir:{run_dir / 'model'})"
    if (run_dir / "tensorboard").is_dir():
        places["TensorBoard"] = f"tensorboard --logdir {run_dir / 'tensorboard'}"
    for name, place in places.items():
        console.print(f"{name:<12} {place}", soft_wrap=True, highlight=False, markup=False)


def write_report(run_dir: Path) -> Path:
    """Write ``report.html``, one file with everything in it."""
    sections = [f"<h1>{html.escape(run_dir.parent.name)} <small>{html.escape(run_dir.name)}</small></h1>"]
    for stage, title in _STAGES.items():
        rows = _rows(run_dir, stage)
        if not rows:
            continue
        cells = "".join(
            f"<tr><td>{html.escape(row.name)}</td><td>{100 * row.before:.1f}</td><td>{100 * row.after:.1f}</td>"
            f"<td class={'up' if row.after >= row.before else 'down'}>{100 * (row.after - row.before):+.1f}</td></tr>"
            for row in rows
        )
        sections.append(f"<h2>{title}, percent</h2>{_bars(changes(run_dir, stage)) if stage == 'eval' else ''}<table>")
        sections.append(f"<tr><th>{stage}<th>before<th>after<th>change</tr>{cells}</table>")
        sections.append(f"<p>{_EXPLAINED[stage]}</p>")
    sections.append("<h2>Curves</h2>" + _curves(run_dir))
    sections.append("<h2>Rows</h2>" + (_bad_row_tables(run_dir) or "<p>Every row was used as it is.</p>"))
    config = run_dir / "config.yaml"
    if config.exists():
        sections.append(f"<h2>Config</h2><pre>{html.escape(config.read_text(encoding='utf-8'))}</pre>")
    page = run_dir / "report.html"
    page.write_text(
        f"<!doctype html><meta charset=utf-8><title>degla run</title>{PAGE_STYLE}{''.join(sections)}",
        encoding="utf-8",
    )
    return page


_SCORES = (
    *("val/caption_choice", "val/image_to_text_r@1", "val/text_to_image_r@1"),
    *("eval_mean/scenes/compositional", "eval_mean/scenes/general", "eval_mean/overall"),
)
_STAGES = {"eval": "Benchmark before and after", "val": "Validation rows before and after"}
_EXPLAINED = {
    "eval": "Each sub-task: share of images that score higher with their caption than with any false one, or with "
    "their class than with any other; a tie is lost. Below them, means of sub-tasks.",
    "val": "caption_choice: share of captions that score higher than every one of their own negatives; a tie is lost.",
}


def _rows(run_dir: Path, stage: str) -> list[Change]:
    """What the table of a stage shows: below the subsets of benchmarks their means."""
    return changes(run_dir, stage) + (changes(run_dir, "eval_mean") if stage == "eval" else [])


def _bars(rows: list[Change]) -> str:
    """Every sub-task before and after."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots()
    for offset, label, colour in ((0.0, "before", "0.7"), (0.4, "after", "C0")):
        values = [100 * getattr(row, label) for row in rows]
        axes.bar([place + offset for place in range(len(rows))], values, 0.4, label=label, color=colour)
    axes.set_xticks([place + 0.2 for place in range(len(rows))], [row.name.replace("/", "\n") for row in rows])
    axes.tick_params(axis="x", labelsize=7, rotation=45)
    axes.set(ylabel="accuracy, percent", ylim=(0, 100))
    axes.legend(fontsize=8, ncols=2)
    return embedded_png(figure, "before and after on every sub-task")


def _curves(run_dir: Path) -> str:
    path = run_dir / "metrics.csv"
    metrics = read_metrics(path) if path.exists() else {}
    losses = {name: values for name, values in metrics.items() if name.startswith("train/loss")}
    scores = {name: values for name, values in metrics.items() if name in _SCORES}
    figure = Figure(figsize=(11, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, curves, title in zip(panels, (losses, scores), ("training losses", "validation"), strict=True):
        for name, values in curves.items():
            axes.plot(list(values), list(values.values()), label=name, marker="." if len(values) < 20 else None)
        axes.set(title=title, xlabel="optimizer step")
        axes.grid(alpha=0.3)
        if curves:
            axes.legend(fontsize=8)
    panels[0].set_yscale("symlog", linthresh=0.1)
    return embedded_png(figure, "curves")


def _bad_row_tables(run_dir: Path) -> str:
    parts = []
    for what, records in bad_rows(run_dir).items():
        lines = "".join(
            f"<tr><td>{html.escape(record['row'])}<td>{html.escape(record['reason'])}</tr>"
            for record in records[:_EXAMPLES]
        )
        more = f"<p>and {len(records) - _EXAMPLES} more in bad_rows.csv</p>" if len(records) > _EXAMPLES else ""
        parts.append(f"<h3>{len(records)} {html.escape(what)}</h3><table>{lines}</table>{more}")
    return "".join(parts)


PAGE_STYLE = """<style>
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse}td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;text-align:right}
.aside{color:#777}td:first-child,th:first-child{text-align:left}.up{color:#18794e}.down{color:#c62828}
img{max-width:100%}pre{background:#f6f6f6;padding:1rem;overflow:auto}small{color:#777;font-weight:400}
</style>"""
