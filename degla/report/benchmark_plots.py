"""Plots of evaluations: averages with their intervals, and gain against retention."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from degla.report.benchmark_results import Evaluation
from degla.report.page import Bar

_COMPOSITIONAL = ("sugarcrepe", "aro", "valse")  # the paper's compositional benchmarks


def family_bars(evaluations: Sequence[Evaluation]) -> dict[str, list[Bar]]:
    """Return the bars of every mean, or of every subset of a benchmark without means, grouped under headings.

    Args:
        evaluations: the base model first. Of one model, a group is a benchmark; of several, a mean with its models.
    """
    groups: dict[str, list[Bar]] = {}
    for benchmark, part, name in _columns(evaluations):
        for number, evaluation in enumerate(evaluations):
            score = evaluation.benchmarks.get(benchmark, {}).get(part, {}).get(name)
            if score is None:
                continue
            alone = len(evaluations) == 1
            heading, label = (benchmark, name) if alone else (f"{benchmark}: {name}", evaluation.label)
            low, high = score["interval"]
            groups.setdefault(heading, []).append(Bar(label, score["accuracy"], low, high, min(number, 1)))
    return groups


def bars_figure(evaluations: Sequence[Evaluation]) -> Figure:
    """Return the same bars as a figure, for slides.

    Args:
        evaluations: the base model first.
    """
    groups = family_bars(evaluations)
    rows = [(heading, bar) for heading, members in groups.items() for bar in members]
    figure = Figure(figsize=(8, 0.28 * (len(rows) + len(groups)) + 1), layout="constrained")
    axes = figure.subplots()
    position, ticks, labels = 0, [], []
    for heading, members in groups.items():
        axes.text(0, position, heading, fontsize=8, fontweight="bold", va="center")
        position += 1
        for bar in members:
            low, high = (bar.value if end is None else end for end in (bar.low, bar.high))
            errors = [[100 * max(0, bar.value - low)], [100 * max(0, high - bar.value)]]
            colour = "C1" if bar.series else "C0"
            axes.barh(position, 100 * bar.value, 0.7, xerr=errors, color=colour, capsize=2)
            ticks.append(position)
            labels.append(bar.label)
            position += 1
    axes.set_yticks(ticks, labels, fontsize=7)
    axes.set(xlabel="accuracy, percent", xlim=(0, 100), ylim=(position, -1))
    return figure


def has_front(evaluations: Sequence[Evaluation]) -> bool:
    """Return whether a model has both a compositional and a general average."""
    return any(compositional is not None and general is not None for compositional, general in map(_point, evaluations))


def front_figure(evaluations: Sequence[Evaluation]) -> Figure:
    """Return a plot of the compositional average against the general one, one point per model.

    Args:
        evaluations: the base model first.
    """
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    for evaluation in evaluations:
        compositional, general = _point(evaluation)
        if compositional is not None and general is not None:
            axes.plot(general, compositional, "o")
            axes.annotate(
                evaluation.label,
                (general, compositional),
                xytext=(0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    axes.set(xlabel="general: zero-shot classification, percent", ylabel="compositional, percent")
    axes.grid(alpha=0.3)
    axes.margins(0.3)
    return figure


def _columns(evaluations: Sequence[Evaluation]) -> list[tuple[str, str, str]]:
    """Return benchmark, ``means`` or ``subsets``, and name of everything that has a bar."""
    names = dict.fromkeys(name for evaluation in evaluations for name in evaluation.benchmarks)
    columns: dict[tuple[str, str, str], None] = {}
    for benchmark in names:
        measured = [
            evaluation.benchmarks[benchmark] for evaluation in evaluations if benchmark in evaluation.benchmarks
        ]
        part = "means" if any(scores["means"] for scores in measured) else "subsets"
        columns |= dict.fromkeys((benchmark, part, name) for scores in measured for name in scores[part])
    return list(columns)


def _point(evaluation: Evaluation) -> tuple[float | None, float | None]:
    """Return compositional and general accuracy in percent; None where it was not measured."""

    def average(benchmark: str, mean: str = "average") -> float | None:
        score = evaluation.benchmarks.get(benchmark, {}).get("means", {}).get(mean)
        return None if score is None else 100 * score["accuracy"]

    compositional = [value for name in _COMPOSITIONAL if (value := average(name)) is not None]
    if compositional and (general := average("zeroshot")) is not None:
        return sum(compositional) / len(compositional), general
    return average("scenes", "compositional"), average("scenes", "general")
