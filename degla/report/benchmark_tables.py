"""Tables in the papers' own layout: published rows, the base model, and what changed from it."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import yaml

from degla.evaluation.statistics import Difference, differences
from degla.report.benchmark_results import Evaluation, protocol_differences

# Heads of the papers' columns; other subsets are headed by their names.
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
    published: int  # how many of the first rows are published ones
    notes: list[str]


def benchmark_table(evaluations: Sequence[Evaluation], benchmark: str) -> BenchmarkTable:
    """Published rows, then each model; behind the first one, what changed and how much needs no image.

    A change is marked * where it is sure: see ``degla.evaluation.statistics.Difference``.
    """
    known = published()["rows"].get(benchmark, {})
    measured = [evaluation for evaluation in evaluations if benchmark in evaluation.benchmarks]
    columns = _columns(measured, benchmark, known)
    rows, notes = [], []
    for source, label in published()["sources"].items():
        for model, values in known.get(source, {}).items():
            by_column = dict(zip(known["columns"], values, strict=True))
            cells = [_percent(by_column.get(column), 1.0) for column in columns]
            rows.append([f"{model} ({source})", *cells])
        if source in known:
            notes.append(f"({source}) {label}.")
    num_published = len(rows)
    for evaluation in measured:
        rows.append([evaluation.label, *(_cell(evaluation.benchmarks[benchmark], column) for column in columns)])
        if evaluation is measured[0]:
            scores = evaluation.benchmarks[benchmark]
            blind = [_percent(_part(scores, column).get("blind")) for column in columns]
            chance = [_percent(_part(scores, column).get("chance")) for column in columns]
            rows += [
                [name, *cells] for name, cells in (("  without images", blind), ("  chance", chance)) if any(cells)
            ]
        else:
            sure = {row.subset for row in compared(measured[0], evaluation, benchmark) if row.is_sure}
            changes = [_change(measured[0], evaluation, benchmark, column, sure) for column in columns]
            rows.append([f"  less {measured[0].label}", *changes])
    if "correction" in known:
        notes.append(published()["corrections"][known["correction"]])
    for evaluation in measured:
        scores = evaluation.benchmarks[benchmark]
        items = sum(subset["num_items"] for subset in scores["subsets"].values())
        ties = sum(subset["ties"] for subset in scores["subsets"].values())
        notes.append(
            f"{evaluation.label}: {items} answers, {ties} ties, {scores['num_left_out']} images or names left out, "
            f"fingerprint {scores['fingerprint']}."
        )
        notes += _caveats(evaluation.label, scores)
    return BenchmarkTable(
        benchmark,
        [_HEADS.get(column, column.removeprefix("mean:")) for column in columns],
        rows,
        num_published,
        notes + protocol_differences(evaluations, benchmark),
    )


def _caveats(label: str, scores: dict) -> list[str]:
    """Where a number is not what its column says."""
    official = scores.get("official", {})
    short = [
        f"{name} {subset['num_items']} of {official[name]}"
        for name, subset in scores["subsets"].items()
        if official.get(name) not in (None, subset["num_items"])
    ]
    by_group = [name for name in scores["protocol"].get("macro", ()) if name in scores["subsets"]]
    flat = [name for name in by_group if scores["subsets"][name]["macro"] is None]
    sentences = [f"{label} does not rest on the published items: {', '.join(short)}."] if short else []
    if flat:
        sentences.append(f"{label}: {', '.join(flat)} averaged over items, not over groups as in the published rows.")
    return sentences


def compared(first: Evaluation, second: Evaluation, benchmark: str) -> list[Difference]:
    """Item by item; see ``degla.evaluation.statistics.differences``."""
    macro = first.benchmarks[benchmark]["protocol"].get("macro", ())
    return differences(first.outcomes(benchmark), second.outcomes(benchmark), macro)


@cache
def published() -> dict:
    """Published numbers with their sources and corrections."""
    return yaml.safe_load(files("degla.report").joinpath("published.yaml").read_text(encoding="utf-8"))


def _columns(measured: Sequence[Evaluation], benchmark: str, known: dict) -> list[str]:
    """The paper's columns where there are any and they were measured, else subsets, then means."""
    there = dict.fromkeys(
        column
        for evaluation in measured
        for part, prefix in (("subsets", ""), ("means", "mean:"))
        for column in (prefix + name for name in evaluation.benchmarks[benchmark][part])
    )
    paper = [column for column in known.get("columns", ()) if column in there]
    return paper + [column for column in there if column not in paper] if len(paper) < 4 else paper


def _part(scores: dict, column: str) -> dict:
    part, name = ("means", column.removeprefix("mean:")) if column.startswith("mean:") else ("subsets", column)
    return scores[part].get(name, {})


def _cell(scores: dict, column: str) -> str:
    part = _part(scores, column)
    if not part:
        return ""
    low, high = part["interval"]
    return f"{100 * part['accuracy']:.1f} ± {50 * (high - low):.1f}"


def _change(first: Evaluation, second: Evaluation, benchmark: str, column: str, sure: set[str]) -> str:
    before, after = (_part(evaluation.benchmarks[benchmark], column) for evaluation in (first, second))
    if not before or not after:
        return ""
    return f"{100 * (after['accuracy'] - before['accuracy']):+.1f}{'*' if column in sure else ''}"


def _percent(value: float | None, factor: float = 100.0) -> str:
    return "" if value is None else f"{factor * value:.1f}"
