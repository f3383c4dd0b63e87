"""The report of one or several evaluations: console, Markdown, HTML, images."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from degla.evaluation.items import ImageRef
from degla.report.benchmark_results import Evaluation
from degla.report.benchmark_tables import BenchmarkTable
from degla.report.explorer import write_explorer
from degla.report.figures import png_bytes
from degla.report.run_report import PAGE_STYLE

_COMPOSITIONAL = ("sugarcrepe", "aro", "valse")


def write_report(
    evaluations: Sequence[Evaluation],
    tables: Sequence[BenchmarkTable],
    folder: Path,
    images: Mapping[str, ImageRef],
    explorer_items: int,
) -> None:
    """Write ``report.md``, ``report.html``, ``bars.png`` and, with something to show, ``front.png``, ``explorer.html``.

    Args:
        evaluations: the base model first.
        tables: from ``benchmark_tables``.
        folder: where to.
        images: by name, for the explorer.
        explorer_items: how many it shows at most.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bars.png").write_bytes(png_bytes(_bars(evaluations)))
    plots = ["bars.png"]
    if any(all(point) for point in map(_point, evaluations)):
        (folder / "front.png").write_bytes(png_bytes(_front(evaluations)))
        plots.append("front.png")
    explorer = None
    if len(evaluations) > 1:
        explorer = write_explorer(evaluations[0], evaluations[-1], folder / "explorer.html", images, explorer_items)
    (folder / "report.md").write_text("\n\n".join(map(_markdown, tables)) + "\n", encoding="utf-8")
    sections = [f"<h1>{html.escape(evaluations[-1].label)}</h1>"]
    sections += [f'<img alt="{name}" src="{name}">' for name in plots]
    if explorer:
        sections.append('<p><a href="explorer.html">The items on which the first and the last model disagree</a></p>')
    sections += [_html(table) for table in tables]
    page = f"<!doctype html><meta charset=utf-8><title>degla evaluation</title>{PAGE_STYLE}{''.join(sections)}"
    (folder / "report.html").write_text(page, encoding="utf-8")


def print_tables(tables: Sequence[BenchmarkTable], folder: Path) -> None:
    """The tables on the console, and where everything else is."""
    console = Console()
    for table in tables:
        lines = [["model", *table.heads], *table.rows]
        width = sum(3 + max(map(len, column)) for column in zip(*lines, strict=True))
        if width > console.width:  # too wide for the screen: a line a column
            lines = [list(column) for column in zip(*lines, strict=True)]
        heads = [Text(head) for head in lines[0]]  # names of subsets are not markup
        shown = Table(
            Column(heads[0], no_wrap=True), *map(Column, heads[1:]), title=Text(f"{table.benchmark}, percent")
        )
        for place, row in enumerate(lines[1:]):
            aside = width <= console.width and (place < table.num_published or row[0].startswith("  "))
            shown.add_row(*map(Text, row), style="dim" if aside else None)
        console.print(shown)
        for note in table.notes:
            console.print(note, markup=False, highlight=False, style="dim")
    for name in ("report.html", "explorer.html", "results.json", "items.parquet"):
        if (folder / name).exists():
            console.print(f"{name:<14} {folder / name}", soft_wrap=True, markup=False, highlight=False)


def _markdown(table: BenchmarkTable) -> str:
    lines = [f"## {table.benchmark}", "", f"| model | {' | '.join(table.heads)} |"]
    lines.append("| --- " * (len(table.heads) + 1) + "|")
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in table.rows]
    return "\n".join([*lines, "", *(f"{note}\n" for note in table.notes)]).rstrip()


def _html(table: BenchmarkTable) -> str:
    heads = "".join(f"<th>{html.escape(head)}" for head in ("model", *table.heads))
    rows = "".join(
        ("<tr class=aside>" if place < table.num_published or row[0].startswith("  ") else "<tr>")
        + "".join(f"<td>{html.escape(cell)}" for cell in row)
        for place, row in enumerate(table.rows)
    )
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in table.notes)
    return (
        f"<h2>{html.escape(table.benchmark)}, percent</h2><table><tr>{heads}</tr>{rows}</table><small>{notes}</small>"
    )


def _bars(evaluations: Sequence[Evaluation]) -> Figure:
    """Every benchmark's average (or, without one, its subsets' mean), a bar a model, with its interval."""
    names = list(dict.fromkeys(name for evaluation in evaluations for name in evaluation.benchmarks))
    parts = [(name, mean) for name in names for mean in _means(evaluations, name)]
    figure = Figure(figsize=(max(6.0, 0.9 * len(parts) + 2), 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(evaluations)
    for place, evaluation in enumerate(evaluations):
        bars = [evaluation.benchmarks.get(name, {}).get("means", {}).get(mean) for name, mean in parts]
        heights = [100 * bar["accuracy"] if bar else 0 for bar in bars]
        below = [100 * max(0, bar["accuracy"] - bar["interval"][0]) if bar else 0 for bar in bars]
        above = [100 * max(0, bar["interval"][1] - bar["accuracy"]) if bar else 0 for bar in bars]
        centres = [i + place * width for i in range(len(parts))]
        axes.bar(centres, heights, width, yerr=(below, above), label=evaluation.label, capsize=2)
    middle = width * (len(evaluations) - 1) / 2
    axes.set_xticks([i + middle for i in range(len(parts))], [f"{name}\n{mean}" for name, mean in parts])
    axes.tick_params(axis="x", labelsize=7, rotation=30)
    axes.set(ylabel="accuracy, percent", ylim=(0, 100))
    axes.legend(fontsize=8)
    return figure


def _means(evaluations: Sequence[Evaluation], benchmark: str) -> list[str]:
    found = [evaluation.benchmarks.get(benchmark, {}).get("means", {}) for evaluation in evaluations]
    return list(dict.fromkeys(mean for means in found for mean in means))


def _point(evaluation: Evaluation) -> tuple[float | None, float | None]:
    """Compositional and general accuracy, percent, of what was measured."""

    def average(benchmark: str, mean: str = "average") -> float | None:
        value = evaluation.benchmarks.get(benchmark, {}).get("means", {}).get(mean)
        return value and 100 * value["accuracy"]

    compositional = [value for name in _COMPOSITIONAL if (value := average(name)) is not None]
    if compositional and (general := average("zeroshot")) is not None:
        return sum(compositional) / len(compositional), general
    return average("scenes", "compositional"), average("scenes", "general")


def _front(evaluations: Sequence[Evaluation]) -> Figure:
    """What was gained against what was kept, a point a model."""
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    for evaluation in evaluations:
        compositional, general = _point(evaluation)
        if compositional is not None and general is not None:
            axes.plot(general, compositional, "o")
            axes.annotate(
                evaluation.label, (general, compositional), fontsize=8, xytext=(4, 4), textcoords="offset points"
            )
    axes.set(xlabel="general: zero-shot classification, percent", ylabel="compositional, percent")
    axes.grid(alpha=0.3)
    axes.margins(0.15)
    return figure
