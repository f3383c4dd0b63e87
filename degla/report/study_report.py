"""The page, the tables and the console output of a study, made from its record alone."""

import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from degla.report import page
from degla.report.figures import embedded_png, png_bytes
from degla.report.study_plots import front, subtasks
from degla.report.study_record import BOTH_MEANS, is_ablation, mean_and_interval, rates_of, scores_of

_MEANS = ("sugarcrepe", "aro", "valse", "compositional", "compositional_without_order", "general")
_HEADS = ("SugarCrepe", "ARO", "VALSE", "compositional", "... without order", "general")
_FILES = ("study.html", "study.md", "study.json", "front.png", "subtasks.png")


def write_study(record: dict[str, Any], out: Path) -> None:
    """Write ``study.html``, ``study.md``, ``front.png`` and ``subtasks.png``.

    Args:
        record: what ``study_record`` returned.
        out: folder of the files.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "study.md").write_text(_markdown(record), encoding="utf-8")
    figures = {"front": front(record), "subtasks": subtasks(record)}
    for name, figure in figures.items():
        (out / f"{name}.png").write_bytes(png_bytes(figure))
    (out / "study.html").write_text(_page(record, figures), encoding="utf-8")


def print_study(record: dict[str, Any], out: Path) -> None:
    """Print the table of means on the console, and the paths of the files.

    Args:
        record: what ``study_record`` returned.
        out: folder of the files.
    """
    shown = Table("method", "rate", *_HEADS, title="Test split, percent, mean and 95 % interval over seeds")
    for line in _rows(record):
        shown.add_row(*line)
    console = Console(width=max(Console().width, 118))  # narrower columns would break numbers over two lines
    console.print(shown)
    for name in _FILES:
        if (out / name).exists():  # a study that is drawn again writes no study.json
            console.print(str(out / name), soft_wrap=True, highlight=False, markup=False)


def _page(record: dict[str, Any], figures: dict[str, Figure]) -> str:
    """Return ``study.html``."""
    classes = ["", *("aside" if is_ablation(name) else "" for name in record["methods"])]
    sections = [
        page.headline(_headline(record)),
        "<h2>Test split</h2><p>Percent; mean and 95 % interval over seeds, at each method's own rate.</p>",
        page.table(["method", "rate", *_HEADS], _rows(record), classes),
        "<h2>Compositional against general accuracy</h2>",
        embedded_png(figures["front"], "compositional against general accuracy of each method"),
        "<h2>Sub-tasks</h2>",
        embedded_png(figures["subtasks"], "accuracy of each sub-task before and after fine-tuning"),
    ]
    # The record names the commit, versions and machine that measured; those of a later drawing do not matter.
    made_by = {
        name.replace("_", " "): text
        for name, text in record.get("provenance", {}).items()
        if name != "settings" and text
    }
    if made_by:
        sections += ["<h2>How this was measured</h2>", page.facts(made_by)]
    return page.page("Study: methods compared on built-in scenes", sections)


def _headline(record: dict[str, Any]) -> dict[str, str]:
    """Return both means before fine-tuning and after it with DeGLA, or with the first method if DeGLA is not there."""
    name = "degla" if "degla" in record["methods"] else next(iter(record["methods"]))
    numbers = {}
    for mean in BOTH_MEANS:
        numbers[f"{mean} before fine-tuning"] = f"{100 * record['start'][mean]:.1f} %"
        numbers[f"{mean}, {name}"] = f"{_cell(scores_of(record['methods'][name], mean))} %"
    num_runs = sum(len(method["validation"]) for method in record["methods"].values())
    return {**numbers, f"runs of {len(record['methods'])} methods": str(num_runs)}


def _rows(record: dict[str, Any]) -> list[list[str]]:
    lines = [["before fine-tuning", "", *(f"{100 * record['start'][name]:.1f}" for name in _MEANS)]]
    for name, method in record["methods"].items():
        lines.append([name, f"{method['lr']:g}", *(_cell(scores_of(method, mean)) for mean in _MEANS)])
    return lines


def _cell(values: list[float], sign: str = "") -> str:
    """Return mean and interval in percent, or the mean alone where one seed gives no interval.

    Args:
        values: fractions, one per seed.
        sign: ``+`` for differences.
    """
    mean, half = mean_and_interval(values)
    return f"{100 * mean:{sign}.1f}" + ("" if math.isnan(half) else f" ± {100 * half:.1f}")


def _markdown(record: dict[str, Any]) -> str:
    """Return the tables of docs/study.md."""
    names = [name for name in record["start"] if "/" in name]
    parts = [
        "Test split, percent; mean and 95 % interval over seeds, at each method's own rate.\n",
        _table(["method", "rate", *_HEADS], _rows(record)),
        "\nValidation split, percent, compositional / general, mean over seeds; the larger sum decided the rate.\n",
        _by_rate(record, _validated),
        "\nTest split at every rate, compositional / general, mean over seeds.\n",
        _by_rate(record, _tested),
        "\nDeGLA minus each other method on the test split, points: mean and 95 % interval over runs of the same\n"
        "rate and seed.\n",
        _paired(record, "degla"),
        "\nTest split by sub-task, percent, mean over seeds.\n",
        _table(
            ["sub-task", "before", *record["methods"]],
            [
                [
                    name,
                    f"{100 * record['start'][name]:.0f}",
                    *(f"{100 * mean_and_interval(scores_of(m, name))[0]:.0f}" for m in record["methods"].values()),
                ]
                for name in names
            ],
        ),
    ]
    return "\n".join(parts) + "\n"


def _by_rate(record: dict[str, Any], values: Callable[[dict[str, Any], float, str], list[float]]) -> str:
    """Return a table of compositional and general accuracy by method and rate, with the chosen rate in bold."""
    lines = []
    for name, method in record["methods"].items():
        line = [name]
        for rate in rates_of(record):
            text = " / ".join(f"{100 * fmean(values(method, rate, mean)):.1f}" for mean in BOTH_MEANS)
            line.append(f"**{text}**" if rate == method["lr"] else text)
        lines.append(line)
    return _table(["method", *(f"{rate:g}" for rate in rates_of(record))], lines)


def _paired(record: dict[str, Any], name: str) -> str:
    """Return a table of the mean differences between ``name`` and each other method, over pairs of runs."""
    means = ("compositional", "compositional_without_order", "general")
    lines = []
    for other, method in record["methods"].items():
        if other != name and name in record["methods"]:
            own, rival = _by_run(record["methods"][name]), _by_run(method)
            gaps = ([own[run][mean] - rival[run][mean] for run in sorted(own.keys() & rival.keys())] for mean in means)
            lines.append([other, *(_cell(values, sign="+") for values in gaps)])
    return _table(["DeGLA less", "compositional", "... without order", "general"], lines)


def _by_run(method: dict[str, Any]) -> dict[tuple[float, int], dict[str, float]]:
    """Return (rate, seed) -> scores of the fine-tuned weights."""
    return {(point["lr"], point["seed"]): point["scores"] for point in method["test"] if point["share"] == 1.0}


def _validated(method: dict[str, Any], rate: float, mean: str) -> list[float]:
    return [run[mean] for run in method["validation"] if run["lr"] == rate]


def _tested(method: dict[str, Any], rate: float, mean: str) -> list[float]:
    return scores_of(method, mean, lr=rate)


def _table(heads: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [heads, ["---"] * len(heads), *lines])
