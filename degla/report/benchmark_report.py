"""The report of one or several evaluations: console, Markdown, HTML, plots."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from degla.evaluation.items import ImageRef, Outcome
from degla.report.benchmark_plots import bars_figure, family_bars, front_figure, has_front
from degla.report.benchmark_results import Evaluation
from degla.report.benchmark_tables import BenchmarkTable
from degla.report.disputed import disputed_items, in_words, spread_evenly, thumbnail
from degla.report.explorer import explorer_link, write_explorer
from degla.report.figures import embedded_png, png_bytes
from degla.report.page import bars, facts, headline, page, table

_MAX_HEADLINES = 6  # averages that open the report
_NUM_SAMPLES = 4  # samples gained, and as many lost, that the report shows
_CONSOLE_PUBLISHED = ("CLIP (degla)", "DeGLA (degla)")  # the console has no room for all published rows


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
        folder: where to write.
        images: by name, for the samples.
        explorer_items: number of items in the explorer at most.
    """
    folder.mkdir(parents=True, exist_ok=True)
    last = evaluations[-1]
    sections = [headline(_headlines(evaluations)), facts(_facts(evaluations))]
    (folder / "bars.png").write_bytes(png_bytes(bars_figure(evaluations)))
    sections.append("<h2>Averages, percent</h2>" + bars(family_bars(evaluations)))
    if has_front(evaluations):
        figure = front_figure(evaluations)
        (folder / "front.png").write_bytes(png_bytes(figure))
        sections.append("<h2>What was gained, and what was kept</h2>" + embedded_png(figure, "both averages"))
    if len(evaluations) > 1:
        sections.append(_samples(evaluations[0], last, images))
        explorer = write_explorer(evaluations[0], last, folder / "explorer.html", images, explorer_items)
        sections.append(explorer_link(explorer) if explorer else "")
    sections += map(_html, tables)
    (folder / "report.md").write_text("\n\n".join(map(_markdown, tables)) + "\n", encoding="utf-8")
    title = last.label if len(evaluations) == 1 else f"{last.label} against {evaluations[0].label}"
    (folder / "report.html").write_text(page(title, sections), encoding="utf-8")


def print_tables(tables: Sequence[BenchmarkTable], folder: Path) -> None:
    """Print the tables on the console, one row per subset, and the paths of everything else.

    Args:
        tables: from ``benchmark_tables``.
        folder: where the report was written.
    """
    console = Console()
    for benchmark in tables:
        models = _models_that_fit(benchmark, console.width)
        dim = [row[0] in _CONSOLE_PUBLISHED or row[0].startswith("  ") for row in models]
        # Names of subsets and models are texts, not markup: one may be called [/x].
        columns = [
            Column(Text(row[0].strip()), justify="right", overflow="fold", style="dim" if aside else "")
            for row, aside in zip(models, dim, strict=True)
        ]
        shown = Table(Column("subset", no_wrap=True), *columns, title=Text(f"{benchmark.benchmark}, percent"))
        for line in _by_subset(benchmark.heads, models):
            shown.add_row(*map(Text, line))
        console.print(shown)
        for note in benchmark.notes:
            console.print(note, markup=False, highlight=False, style="dim")
    for name in ("report.html", "explorer.html", "results.json", "items.parquet"):
        if (folder / name).exists():
            console.print(f"{name:<14} {folder / name}", soft_wrap=True, markup=False, highlight=False)


def _models_that_fit(benchmark: BenchmarkTable, width: int) -> list[list[str]]:
    """Leave out published rows, then the baselines, where the console is too narrow for all columns."""
    published = [row for row in benchmark.rows[: benchmark.num_published] if row[0] in _CONSOLE_PUBLISHED]
    measured = benchmark.rows[benchmark.num_published :]
    models = [row for row in measured if row[0].strip() not in ("without images", "chance")]
    for choice in (published + measured, measured):
        columns = [("subset", *benchmark.heads), *([*row[0].split(), *row[1:]] for row in choice)]
        if sum(3 + max(map(len, column)) for column in columns) + 1 <= width:
            return choice
    return models


def _headlines(evaluations: Sequence[Evaluation]) -> dict[str, str]:
    """Return the averages of the last model, and what changed from the first."""
    first, last = evaluations[0], evaluations[-1]
    numbers = {}
    for name, scores in list(last.benchmarks.items())[:_MAX_HEADLINES]:
        score = scores["means"].get("average")
        if score is None:
            continue
        low, high = score["interval"]
        text = f"{100 * score['accuracy']:.1f} ± {50 * (high - low):.1f}"
        before = first.benchmarks.get(name, {}).get("means", {}).get("average")
        if before and first is not last:
            text += f" ({100 * (score['accuracy'] - before['accuracy']):+.1f})"
        numbers[f"{name}, average"] = text
    return numbers


def _facts(evaluations: Sequence[Evaluation]) -> dict[str, str]:
    """Return how the results of the last model were made, and where those of the others are."""
    last = evaluations[-1]
    made: dict[str, Any] = dict(last.record.get("made", {}))
    seconds, encoded = made.pop("seconds", None), made.pop("encoded", {})
    model = last.record.get("model", {})
    values = {
        "command": str(made.pop("command", "")),
        "weights": " ".join(str(model[key]) for key in ("name", "pretrained", "fingerprint") if model.get(key)),
        "duration": f"{seconds} s, {', '.join(f'{count} {kind} encoded' for kind, count in encoded.items())}",
        **{name: str(value) for name, value in made.items()},
    }
    others = {f"compared with {other.label}": str(other.folder) for other in evaluations[:-1]}
    return {name: value for name, value in (values | others).items() if value}


def _samples(first: Evaluation, second: Evaluation, images: Mapping[str, ImageRef]) -> str:
    """Return the samples that changed most in each direction, with images and captions."""
    disputed = disputed_items(first, second)
    parts = []
    for kind, title in (("gained", "Samples most gained"), ("lost", "Samples most lost")):
        members = spread_evenly([item for item in disputed if item.kind == kind], _NUM_SAMPLES)
        cards = "".join(
            _card(
                item.subset,
                item.second,
                images,
                [in_words(item.first, first.label), in_words(item.second, second.label)],
            )
            for item in members
        )
        parts.append(f"<h2>{title}</h2><div class=samples>{cards}</div>" if cards else "")
    return "".join(parts)


def _card(subset: str, outcome: Outcome, images: Mapping[str, ImageRef], sentences: Sequence[str]) -> str:
    address = thumbnail(images.get(outcome.image))
    image = f'<img alt="{html.escape(outcome.image)}" src="{address}">' if address else ""
    rival = f"<p class=down>✗ {html.escape(outcome.rival)}</p>" if outcome.rival else ""
    words = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)
    return (
        f"<div class=sample>{image}<div><p class=up>✓ {html.escape(outcome.caption)}</p>{rival}{words}"
        f"<small>{html.escape(subset)} {html.escape(outcome.item)}</small></div></div>"
    )


def _by_subset(heads: Sequence[str], models: Sequence[Sequence[str]]) -> list[list[str]]:
    """Turn rows of models into one row per subset."""
    return [[head, *(row[number] for row in models)] for number, head in enumerate(heads, 1)]


def _unbroken(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    """Keep a number and its interval on one line."""
    return [[cell.replace(" ± ", "\u00a0±\u00a0") for cell in line] for line in lines]


def _names(models: Sequence[Sequence[str]]) -> list[str]:
    return [row[0].strip() for row in models]


def _markdown(benchmark: BenchmarkTable) -> str:
    names = [name.replace("|", "/") for name in _names(benchmark.rows)]
    lines = [f"## {benchmark.benchmark}", "", f"| subset | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
    for cells in _by_subset(benchmark.heads, benchmark.rows):
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join([*lines, "", *(f"{note}\n" for note in benchmark.notes)]).rstrip()


def _html(benchmark: BenchmarkTable) -> str:
    measured = benchmark.rows[benchmark.num_published :]
    published = benchmark.rows[: benchmark.num_published]
    parts = [
        f"<h2>{html.escape(benchmark.benchmark)}, percent</h2>",
        table(["subset", *_names(measured)], _unbroken(_by_subset(benchmark.heads, measured))),
    ]
    if published:
        numbers = table(["subset", *_names(published)], _by_subset(benchmark.heads, published))
        parts.append(f"<details><summary>Published numbers</summary>{numbers}</details>")
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in benchmark.notes)
    return "".join([*parts, f"<small>{notes}</small>"])
