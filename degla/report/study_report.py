"""Tables and plots of a study, made from its record alone."""

from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from degla.report.figures import png_bytes
from degla.report.study_record import mean_and_interval

_MEANS = ("sugarcrepe", "aro", "valse", "compositional", "compositional_without_order", "general")
_HEADS = ("SugarCrepe", "ARO", "VALSE", "compositional", "... without order", "general")
_BOTH = ("compositional", "general")  # the two means that the plots set against each other
_ABLATIONS = "degla_"  # prefix of the ablations, which are drawn dashed


def write_study(record: dict[str, Any], out: Path) -> None:
    """Write ``study.md``, ``front.png`` and ``subtasks.png``.

    Args:
        record: what ``study_record`` returned.
        out: folder of the files.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "study.md").write_text(_markdown(record), encoding="utf-8")
    for name, figure in (("front", _front(record)), ("subtasks", _subtasks(record))):
        (out / f"{name}.png").write_bytes(png_bytes(figure))


def print_study(record: dict[str, Any], out: Path) -> None:
    """Print the table of means on the console, and the paths of the files.

    Args:
        record: what ``study_record`` returned.
        out: folder of the files.
    """
    table = Table("method", "rate", *_HEADS, title="Test split, percent, mean and 95 % interval over seeds")
    for line in _rows(record):
        table.add_row(*line)
    console = Console(width=max(Console().width, 118))  # narrower columns would break numbers over two lines
    console.print(table)
    for name in ("study.json", "study.md", "front.png", "subtasks.png"):
        if (out / name).exists():  # a study that is drawn again writes no study.json
            console.print(str(out / name), soft_wrap=True, highlight=False, markup=False)


def _rows(record: dict[str, Any]) -> list[list[str]]:
    lines = [["before fine-tuning", "", *(f"{100 * record['start'][name]:.1f}" for name in _MEANS)]]
    for name, method in record["methods"].items():
        lines.append([name, f"{method['lr']:g}", *(_cell(_tuned(method, mean)) for mean in _MEANS)])
    return lines


def _tuned(method: dict[str, Any], name: str, share: float = 1.0, lr: float | None = None) -> list[float]:
    """Return one value per seed, at the method's own rate or at ``lr``."""
    setting = (lr or method["lr"], share)
    return [point["scores"][name] for point in method["test"] if (point["lr"], point["share"]) == setting]


def _cell(values: list[float]) -> str:
    mean, half = mean_and_interval(values)
    return f"{100 * mean:.1f} ± {100 * half:.1f}"


def _markdown(record: dict[str, Any]) -> str:
    """Return the tables of docs/study.md."""
    subtasks = [name for name in record["start"] if "/" in name]
    parts = [
        "Test split, percent; mean and 95 % interval over seeds, at each method's own rate.\n",
        _table(["method", "rate", *_HEADS], _rows(record)),
        "\nValidation split, percent, compositional / general, mean over seeds; the larger sum decided the rate.\n",
        _by_rate(record, _validated),
        "\nTest split at every rate, compositional / general, mean over seeds.\n",
        _by_rate(record, _tested),
        "\nDeGLA less each other method on the test split, points: mean and 95 % interval over runs of the same\n"
        "rate and seed.\n",
        _paired(record, "degla"),
        "\nTest split by sub-task, percent, mean over seeds.\n",
        _table(
            ["sub-task", "before", *record["methods"]],
            [
                [
                    name,
                    f"{100 * record['start'][name]:.0f}",
                    *(f"{100 * mean_and_interval(_tuned(m, name))[0]:.0f}" for m in record["methods"].values()),
                ]
                for name in subtasks
            ],
        ),
    ]
    return "\n".join(parts) + "\n"


def _by_rate(record: dict[str, Any], values: Callable[[dict[str, Any], float, str], list[float]]) -> str:
    """Return a table of compositional and general accuracy by method and rate, with the chosen rate in bold."""
    lines = []
    for name, method in record["methods"].items():
        line = [name]
        for rate in _rates_of(record):
            text = " / ".join(f"{100 * fmean(values(method, rate, mean)):.1f}" for mean in _BOTH)
            line.append(f"**{text}**" if rate == method["lr"] else text)
        lines.append(line)
    return _table(["method", *(f"{rate:g}" for rate in _rates_of(record))], lines)


def _paired(record: dict[str, Any], name: str) -> str:
    """Return a table of the mean differences between ``name`` and each other method, over pairs of runs."""
    means = ("compositional", "compositional_without_order", "general")
    lines = []
    for other, method in record["methods"].items():
        if other != name and name in record["methods"]:
            own, rival = _by_run(record["methods"][name]), _by_run(method)
            gaps = ([own[run][mean] - rival[run][mean] for run in sorted(own.keys() & rival.keys())] for mean in means)
            lines.append(
                [other, *(f"{100 * mean:+.1f} ± {100 * half:.1f}" for mean, half in map(mean_and_interval, gaps))]
            )
    return _table(["DeGLA less", "compositional", "... without order", "general"], lines)


def _by_run(method: dict[str, Any]) -> dict[tuple[float, int], dict[str, float]]:
    """Return (rate, seed) -> scores of the fine-tuned weights."""
    return {(point["lr"], point["seed"]): point["scores"] for point in method["test"] if point["share"] == 1.0}


def _validated(method: dict[str, Any], rate: float, mean: str) -> list[float]:
    return [run[mean] for run in method["validation"] if run["lr"] == rate]


def _tested(method: dict[str, Any], rate: float, mean: str) -> list[float]:
    return _tuned(method, mean, lr=rate)


def _rates_of(record: dict[str, Any]) -> list[float]:
    return sorted({run["lr"] for method in record["methods"].values() for run in method["validation"]})


def _table(heads: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [heads, ["---"] * len(heads), *lines])


def _front(record: dict[str, Any]) -> Figure:
    """Plot compositional against general accuracy: between before and after, and at every rate."""
    figure = Figure(figsize=(18, 5.5), layout="constrained")
    whole, without_order, rates = figure.subplots(1, 3)
    _interpolations(whole, record, "compositional")
    _interpolations(without_order, record, "compositional_without_order")
    _rates(rates, record)
    whole.set_title("test: from before to after at the chosen rate (WiSE-FT)", fontsize=10)
    without_order.set_title("the same without ARO's order", fontsize=10)
    rates.set_title("test: after fine-tuning at every rate", fontsize=10)
    for axes in (whole, without_order, rates):
        axes.set(xlabel="general accuracy, percent", ylabel="compositional accuracy, percent")
        axes.grid(alpha=0.3)
    figure.legend(*whole.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def _colour(number: int) -> tuple[float, ...]:
    """Return the colour of a method; the strong colours of the palette come before the pale ones."""
    return colormaps["tab20"]((2 * number + number // 10) % 20)


def _interpolations(axes: Axes, record: dict[str, Any], mean: str) -> None:
    """Plot one curve per method, with the 95 % interval over seeds at its end."""
    start = (100 * record["start"]["general"], 100 * record["start"][mean])
    for number, (name, method) in enumerate(record["methods"].items()):
        shares = sorted({point["share"] for point in method["test"]})
        points = [[mean_and_interval(_tuned(method, key, share)) for share in shares] for key in ("general", mean)]
        xs, ys = ([before, *(100 * value for value, _ in values)] for before, values in zip(start, points, strict=True))
        style = "--" if name.startswith(_ABLATIONS) else "-"
        axes.plot(xs, ys, style, color=_colour(number), marker=".", label=name, alpha=0.8)
        x_error, y_error = (100 * values[-1][1] for values in points)
        axes.errorbar(
            xs[-1],
            ys[-1],
            xerr=x_error,
            yerr=y_error,
            color=_colour(number),
            marker="o",
            alpha=0.8,
            elinewidth=0.8,
        )
    axes.plot(*start, "k*", markersize=14, label="before fine-tuning")


def _rates(axes: Axes, record: dict[str, Any]) -> None:
    for number, (name, method) in enumerate(record["methods"].items()):
        ys, xs = ([100 * fmean(_tested(method, rate, mean)) for rate in _rates_of(record)] for mean in _BOTH)
        axes.plot(xs, ys, "--" if name.startswith(_ABLATIONS) else "-", color=_colour(number), marker=".", alpha=0.8)


def _subtasks(record: dict[str, Any]) -> Figure:
    """Plot every sub-task before and after, with the main methods side by side."""
    names = [name for name in record["start"] if "/" in name]
    methods = {name: m for name, m in record["methods"].items() if not name.startswith(_ABLATIONS)}
    figure = Figure(figsize=(13, 5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / (len(methods) + 1)
    bars = {"before fine-tuning": [record["start"][name] for name in names]}
    bars |= {key: [mean_and_interval(_tuned(method, name))[0] for name in names] for key, method in methods.items()}
    for number, (label, values) in enumerate(bars.items()):
        positions = [position + number * width for position in range(len(names))]
        colour = "0.7" if number == 0 else _colour(list(record["methods"]).index(label))
        axes.bar(positions, [100 * value for value in values], width, label=label, color=colour)
    axes.set_xticks([position + 0.4 for position in range(len(names))], [name.replace("/", "\n") for name in names])
    axes.tick_params(axis="x", labelsize=7, rotation=45)
    axes.set(ylabel="accuracy, percent", ylim=(0, 100))
    axes.legend(fontsize=8, ncols=len(bars))
    return figure
