"""Tables in the papers' own layout: published rows, the base model, and what changed from it."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

from degla.evaluation.statistics import Difference, differences
from degla.report.benchmark_results import Evaluation, protocol_differences

# Subset or mean -> heading of the paper's column; other columns are headed by their own names.
_HEADS = {
    "plurals": "plurality",
    "mean:counting": "counting",
    "relations": "sp. rel.",
    "action-replacement": "act. repl.",
    "actant-swap": "act. swap",
    "coreference-standard": "coref.",
    "coreference-hard": "coref. clean",
    "mean:average": "avg.",
    "mean:replace": "replace avg.",
    "mean:swap": "swap avg.",
    "mean:add": "add avg.",
}


class BenchmarkTable(NamedTuple):
    """One benchmark, ready to be printed."""

    benchmark: str
    heads: list[str]
    rows: list[list[str]]  # the first cell is the model
    num_published: int  # how many of the first rows are published ones
    notes: list[str]


def benchmark_tables(evaluations: Sequence[Evaluation]) -> list[BenchmarkTable]:
    """Return one table for each benchmark that was measured."""
    names = dict.fromkeys(name for evaluation in evaluations for name in evaluation.benchmarks)
    return [benchmark_table(evaluations, name) for name in names]


def benchmark_table(evaluations: Sequence[Evaluation], benchmark: str) -> BenchmarkTable:
    """Return published rows, then each model.

    The first model is followed by its score without images and by chance, each other model by what changed. A
    significant change has a star: see ``degla.evaluation.statistics.Difference``.

    Args:
        evaluations: the base model first.
        benchmark: its name.
    """
    published_here = published()["rows"].get(benchmark, {})
    measured = [evaluation for evaluation in evaluations if benchmark in evaluation.benchmarks]
    columns = _columns(measured, benchmark, published_here)
    rows, notes = _published_rows(published_here, columns)
    num_published = len(rows)
    for evaluation in measured:
        scores = evaluation.benchmarks[benchmark]
        rows.append([evaluation.label, *(_cell(scores, column) for column in columns)])
        if evaluation is measured[0]:
            rows += _baseline_rows(scores, columns)
        else:
            rows.append(_change_row(measured[0], evaluation, benchmark, columns))
    if "correction" in published_here:
        notes.append(published()["corrections"][published_here["correction"]])
    for evaluation in measured:
        notes += _notes(evaluation.label, evaluation.benchmarks[benchmark])
    return BenchmarkTable(
        benchmark,
        [_HEADS.get(column, column.removeprefix("mean:")) for column in columns],
        rows,
        num_published,
        notes + protocol_differences(evaluations, benchmark),
    )


def compared(first: Evaluation, second: Evaluation, benchmark: str) -> list[Difference]:
    """Compare two evaluations item by item; see ``degla.evaluation.statistics.differences``.

    Args:
        first: the base model.
        second: the other model.
        benchmark: a benchmark that both have answered.
    """
    macro_averaged = first.benchmarks[benchmark]["protocol"].get("macro", ())
    return differences(first.outcomes(benchmark), second.outcomes(benchmark), macro_averaged)


@cache
def published() -> dict[str, Any]:
    """Return published numbers with their sources and corrections."""
    content: dict[str, Any] = yaml.safe_load(files("degla.report").joinpath("published.yaml").read_text("utf-8"))
    return content


def _published_rows(published_here: Mapping[str, Any], columns: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """Return the published rows of a benchmark, and one note for each source."""
    rows, notes = [], []
    for source, label in published()["sources"].items():
        for model, values in published_here.get(source, {}).items():
            by_column = dict(zip(published_here["columns"], values, strict=True))
            rows.append([f"{model} ({source})", *(_percent(by_column.get(column), 1.0) for column in columns)])
        if source in published_here:
            notes.append(f"({source}) {label}.")
    return rows, notes


def _baseline_rows(scores: Mapping[str, Any], columns: Sequence[str]) -> list[list[str]]:
    """Return the no-image baseline and chance, where there are any."""
    no_image = [_percent(_part(scores, column).get("blind")) for column in columns]
    chance = [_percent(_part(scores, column).get("chance")) for column in columns]
    return [[name, *cells] for name, cells in (("  without images", no_image), ("  chance", chance)) if any(cells)]


def _change_row(first: Evaluation, second: Evaluation, benchmark: str, columns: Sequence[str]) -> list[str]:
    significant = {row.subset for row in compared(first, second, benchmark) if row.is_significant}
    return [f"  minus {first.label}", *(_change(first, second, benchmark, column, significant) for column in columns)]


def _notes(label: str, scores: Mapping[str, Any]) -> list[str]:
    """Return notes on the items behind a model's numbers, and on numbers that differ from their column's heading."""
    subsets = scores["subsets"]
    num_items = sum(subset["num_items"] for subset in subsets.values())
    num_ties = sum(subset["ties"] for subset in subsets.values())
    notes = [
        f"{label}: {num_items} answers, {num_ties} ties, {scores['num_left_out']} images or names left out, "
        f"fingerprint {scores['fingerprint']}."
    ]
    official = scores.get("official", {})
    other_counts = [
        f"{name} {subset['num_items']} of {official[name]}"
        for name, subset in subsets.items()
        if official.get(name) not in (None, subset["num_items"])
    ]
    if other_counts:
        notes.append(f"{label} was not measured on the published items: {', '.join(other_counts)}.")
    macro_averaged = [name for name in scores["protocol"].get("macro", ()) if name in subsets]
    without_groups = [name for name in macro_averaged if subsets[name]["macro"] is None]
    if without_groups:
        notes.append(
            f"{label}: {', '.join(without_groups)} averaged over items, not over groups as in the published rows."
        )
    return notes


def _columns(measured: Sequence[Evaluation], benchmark: str, published_here: Mapping[str, Any]) -> list[str]:
    """Return the paper's columns where they exist and were asked for, else subsets, then means."""
    asked = {
        subset for evaluation in measured for subset in evaluation.benchmarks[benchmark]["protocol"].get("subsets", ())
    }
    # Without answers to one of its subsets a benchmark has no means. Their published values are still shown.
    lacks_means = any(
        set(scores["protocol"].get("subsets", ())) - set(scores["subsets"])
        for scores in (evaluation.benchmarks[benchmark] for evaluation in measured)
    )
    available = dict.fromkeys(
        column
        for evaluation in measured
        for part, prefix in (("subsets", ""), ("means", "mean:"))
        for column in (prefix + name for name in evaluation.benchmarks[benchmark][part])
    )
    paper = [
        column
        for column in published_here.get("columns", ())
        if column in available or column in asked or (lacks_means and column.startswith("mean:"))
    ]
    return paper + [column for column in available if column not in paper] if len(paper) < 4 else paper


def _part(scores: Mapping[str, Any], column: str) -> Mapping[str, Any]:
    part, name = ("means", column.removeprefix("mean:")) if column.startswith("mean:") else ("subsets", column)
    values: Mapping[str, Any] = scores[part].get(name, {})
    return values


def _cell(scores: Mapping[str, Any], column: str) -> str:
    part = _part(scores, column)
    if not part:
        return ""
    low, high = part["interval"]
    return f"{100 * part['accuracy']:.1f} ± {50 * (high - low):.1f}"


def _change(first: Evaluation, second: Evaluation, benchmark: str, column: str, significant: set[str]) -> str:
    before, after = (_part(evaluation.benchmarks[benchmark], column) for evaluation in (first, second))
    if not before or not after:
        return ""
    return f"{100 * (after['accuracy'] - before['accuracy']):+.1f}{'*' if column in significant else ''}"


def _percent(value: float | None, factor: float = 100.0) -> str:
    return "" if value is None else f"{factor * value:.1f}"
