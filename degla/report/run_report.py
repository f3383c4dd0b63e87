"""What a run did: before and after on the validation rows, curves, and the rows it could not use."""

import base64
import csv
import html
import io
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from degla.callbacks import read_metrics

_EXAMPLES = 20  # rows shown of each kind of problem


class Change(NamedTuple):
    """A validation metric of the untouched student and of the trained one, fractions in [0, 1]."""

    name: str
    before: float
    after: float


def changes(run_dir: Path) -> list[Change]:
    """First and last value of each validation metric; empty without validation."""
    path = run_dir / "metrics.csv"
    metrics = read_metrics(path) if path.exists() else {}
    rows = []
    for name, values in metrics.items():
        if name.startswith("val/") and len(values) > 1:
            steps = list(values)
            rows.append(Change(name.removeprefix("val/"), values[steps[0]], values[steps[-1]]))
    return sorted(rows, key=_order)


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
    rows = changes(run_dir)
    if rows:
        table = Table("validation", "before", "after", "change", title="Student on the validation rows, percent")
        for row in rows:
            delta = 100 * (row.after - row.before)
            colour = "green" if delta > 0 else "red" if delta < 0 else "white"
            table.add_row(
                row.name,
                f"{100 * row.before:.1f}",
                f"{100 * row.after:.1f}",
                f"[{colour}]{delta:+.1f}[/{colour}]",
            )
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
    rows = changes(run_dir)
    if rows:
        cells = "".join(
            f"<tr><td>{html.escape(row.name)}</td><td>{100 * row.before:.1f}</td><td>{100 * row.after:.1f}</td>"
            f"<td class={'up' if row.after >= row.before else 'down'}>{100 * (row.after - row.before):+.1f}</td></tr>"
            for row in rows
        )
        sections.append("<h2>Before and after, percent</h2><table><tr><th>validation<th>before<th>after<th>change</tr>")
        sections.append(f"{cells}</table><p>caption_choice: share of captions that score higher than every one of ")
        sections.append("their own negatives; a tie is lost.</p>")
    sections.append("<h2>Curves</h2>" + _curves(run_dir))
    sections.append("<h2>Rows</h2>" + (_bad_row_tables(run_dir) or "<p>Every row was used as it is.</p>"))
    config = run_dir / "config.yaml"
    if config.exists():
        sections.append(f"<h2>Config</h2><pre>{html.escape(config.read_text(encoding='utf-8'))}</pre>")
    page = run_dir / "report.html"
    page.write_text(
        f"<!doctype html><meta charset=utf-8><title>degla run</title>{_STYLE}{''.join(sections)}",
        encoding="utf-8",
    )
    return page


def _curves(run_dir: Path) -> str:
    path = run_dir / "metrics.csv"
    metrics = read_metrics(path) if path.exists() else {}
    losses = {name: values for name, values in metrics.items() if name.startswith("train/loss")}
    scores = {
        name: values
        for name, values in metrics.items()
        if name in ("val/caption_choice", "val/image_to_text_r@1", "val/text_to_image_r@1")
    }
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
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return f'<img alt="curves" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


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


_STYLE = """<style>
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse}td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}.up{color:#18794e}.down{color:#c62828}
img{max-width:100%}pre{background:#f6f6f6;padding:1rem;overflow:auto}small{color:#777;font-weight:400}
</style>"""
