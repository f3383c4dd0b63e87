"""The two figures of a study, made from its record alone."""

import math
from collections.abc import Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from degla.report.study_measure import Method, scores_on_test
from degla.report.study_record import methods_of
from degla.report.study_schema import StudyRecord
from degla.report.study_statistics import mean_and_interval
from degla.report.study_tables import middle_level

MAX_LINES = 5  # of a panel
LOWEST_RETENTION = 0.88  # points of a front below it are not drawn, because they would flatten all others
_COLUMNS = 3
_OTHERS = "Others"
# The first is the reference's in every panel. All of them differ for readers who do not see red and green.
_COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")
_MARKERS = "osD^v"


def panels_of(record: StudyRecord) -> dict[str, list[str]]:
    """Return question -> methods, without those that the study lacks; methods in no panel get panels of their own."""
    methods = methods_of(record)
    panels = {question: [name for name in names if name in methods] for question, names in record.panels.items()}
    shown = {name for names in panels.values() for name in names}
    others = [name for name in methods if name not in shown]
    for start in range(0, len(others), MAX_LINES):
        panels[f"{_OTHERS}, {start // MAX_LINES + 1}" if start else _OTHERS] = others[start : start + MAX_LINES]
    return {question: names for question, names in panels.items() if names}


def fronts(record: StudyRecord) -> Figure:
    """Plot the front of each method on the test split, one panel per question."""
    methods, panels = methods_of(record), panels_of(record)
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5.2 * columns, 4.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat
    for axes, (question, names) in zip(grid, panels.items(), strict=False):
        _panel(axes, record, [methods[name] for name in names])
        axes.set_title(question, fontsize=11)
        axes.set(xlabel=f"{_words(record.retain)}, percent", ylabel=f"{_words(record.metric)}, percent")
        axes.tick_params(labelbottom=True, labelleft=True)
    for axes in list(grid)[len(panels) :]:
        axes.set_axis_off()
    return figure


def subtasks(record: StudyRecord) -> Figure:
    """Plot every sub-task of the base model and of the first panel's methods, at the candidate of the middle level."""
    methods, level = methods_of(record), middle_level(record)
    names = next(iter(panels_of(record).values()))
    bars = {"base model": ([record.base.test[task] for task in record.subtasks], "0.75")}
    for name, (colour, _) in _styles(record, names).items():
        method = methods[name]
        scores = (scores_on_test(method, method.chosen[level], record.base.test, task) for task in record.subtasks)
        bars[name] = ([fmean(values.values()) for values in scores], colour)
    figure = Figure(figsize=(13, 5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(bars)
    for number, (label, (values, colour)) in enumerate(bars.items()):
        positions = [position + number * width for position in range(len(values))]
        axes.bar(positions, [100 * value for value in values], width, label=label, color=colour)
    ticks = [name.replace("/", "\n") for name in record.subtasks]
    axes.set_xticks([position + 0.4 for position in range(len(ticks))], ticks)
    axes.tick_params(axis="x", labelsize=7, rotation=45)
    axes.set(ylabel="accuracy, percent", ylim=(0, 100), title=f"Sub-tasks at {100 * level:g} % retention, test split")
    axes.legend(fontsize=8, ncols=len(bars))
    return figure


def _panel(axes: Axes, record: StudyRecord, methods: Sequence[Method]) -> None:
    base = record.base.test
    styles = _styles(record, [method.name for method in methods])
    lowest = 100 * LOWEST_RETENTION * base[record.retain]
    for method in methods:
        points = []
        for candidate in method.front:
            scores = (scores_on_test(method, candidate, base, name) for name in (record.retain, record.metric))
            points.append([mean_and_interval([100 * value for value in own.values()]) for own in scores])
        points = sorted((point for point in points if point[0][0] >= lowest), key=lambda point: -point[0][0])
        colour, marker = styles[method.name]
        axes.errorbar(
            [x for (x, _), _ in points],
            [y for _, (y, _) in points],
            xerr=[_bar(half) for (_, half), _ in points],
            yerr=[_bar(half) for _, (_, half) in points],
            color=colour,
            marker=marker,
            markersize=4,
            linewidth=1.4,
            elinewidth=0.6,
            alpha=0.9,
            label=method.name,
        )
    star = (100 * base[record.retain], 100 * base[record.metric])
    axes.plot(*star, "*", color="0.4", markersize=15, zorder=5, label="base model")
    for level in record.retentions:
        axes.axvline(level * star[0], color="0.6", linestyle=":", linewidth=0.8)
        axes.annotate(
            f"{100 * level:g} %",
            (level * star[0], 0.01),
            xycoords=("data", "axes fraction"),
            fontsize=7,
            color="0.4",
            rotation=90,
            ha="right",
            va="bottom",
        )
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="best")


def _styles(record: StudyRecord, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return method -> colour and marker within a panel."""
    others = [name for name in names if name != record.reference]
    order = [record.reference, *others] if record.reference in names else ["", *others]
    return {
        name: (_COLOURS[number], _MARKERS[number % len(_MARKERS)]) for number, name in enumerate(order) if name in names
    }


def _bar(half: float) -> float:
    """Return the length of an error bar; none for one seed."""
    return 0.0 if math.isnan(half) else half


def _words(name: str) -> str:
    return name.replace("_", " ")
