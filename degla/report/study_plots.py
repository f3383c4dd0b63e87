"""The two figures of a study, made from its record alone."""

from statistics import fmean
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from degla.report.study_record import BOTH_MEANS, is_ablation, mean_and_interval, rates_of, scores_of


def front(record: dict[str, Any]) -> Figure:
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


def subtasks(record: dict[str, Any]) -> Figure:
    """Plot every sub-task before and after, with the main methods side by side."""
    names = [name for name in record["start"] if "/" in name]
    methods = {name: m for name, m in record["methods"].items() if not is_ablation(name)}
    figure = Figure(figsize=(13, 5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / (len(methods) + 1)
    bars = {"before fine-tuning": [record["start"][name] for name in names]}
    bars |= {key: [mean_and_interval(scores_of(method, name))[0] for name in names] for key, method in methods.items()}
    for number, (label, values) in enumerate(bars.items()):
        positions = [position + number * width for position in range(len(names))]
        colour = "0.7" if number == 0 else _colour(list(record["methods"]).index(label))
        axes.bar(positions, [100 * value for value in values], width, label=label, color=colour)
    axes.set_xticks([position + 0.4 for position in range(len(names))], [name.replace("/", "\n") for name in names])
    axes.tick_params(axis="x", labelsize=7, rotation=45)
    axes.set(ylabel="accuracy, percent", ylim=(0, 100))
    axes.legend(fontsize=8, ncols=len(bars))
    return figure


def _interpolations(axes: Axes, record: dict[str, Any], mean: str) -> None:
    """Plot one curve per method, with the 95 % interval over seeds at its end."""
    start = (100 * record["start"]["general"], 100 * record["start"][mean])
    for number, (name, method) in enumerate(record["methods"].items()):
        shares = sorted({point["share"] for point in method["test"]})
        points = [[mean_and_interval(scores_of(method, key, share)) for share in shares] for key in ("general", mean)]
        xs, ys = ([before, *(100 * value for value, _ in values)] for before, values in zip(start, points, strict=True))
        style = "--" if is_ablation(name) else "-"
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
        ys, xs = ([100 * fmean(scores_of(method, mean, lr=rate)) for rate in rates_of(record)] for mean in BOTH_MEANS)
        axes.plot(xs, ys, "--" if is_ablation(name) else "-", color=_colour(number), marker=".", alpha=0.8)


def _colour(number: int) -> tuple[float, ...]:
    """Return the colour of a method; the strong colours of the palette come before the pale ones."""
    return colormaps["tab20"]((2 * number + number // 10) % 20)
