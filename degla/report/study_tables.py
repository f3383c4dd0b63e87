"""The tables of a study as rows of text, made from its record alone; Markdown, HTML and the console show them."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from degla.report.study_measure import (
    Candidate,
    Method,
    incomplete_settings,
    runs_by_setting,
    scores_on_test,
)
from degla.report.study_record import methods_of
from degla.report.study_schema import StudyRecord
from degla.report.study_statistics import mean_and_interval, paired_differences


class StudyTable(NamedTuple):
    """A table with what it shows in one paragraph."""

    title: str
    note: str
    heads: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """Return the table alone as Markdown."""
        lines = [self.heads, ["---"] * len(self.heads), *self.rows]
        return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def retention_table(record: StudyRecord) -> StudyTable:
    """Return the headline: the metric of each method at each level of retention, on the test split."""
    base = record.base.test
    rows = [["base model", *([_percent(base[record.metric]), _kept([base[record.retain]], record)] * _levels(record))]]
    for method in methods_of(record).values():
        row = [method.name]
        for level in record.retentions:
            metric, general = (_values(record, method, level, name) for name in (record.metric, record.retain))
            row += [cell(metric, method.chosen[level]), _kept(general, record)]
        rows.append(row)
    heads = ["method", *(head for level in record.retentions for head in (f"at {100 * level:g} %", "kept"))]
    levels = ", ".join(f"{100 * level:g}" for level in record.retentions)
    note = (
        f"Test split, percent: {_words(record.metric)}, mean and 95 % interval over seeds, of the candidate that is "
        f"best on the validation split among those that keep at least {levels} % of the base's {_words(record.retain)} "
        f"accuracy there. Beside it, what it has kept: {_words(record.retain)} accuracy on the test split, with its "
        "share of the base's in brackets. That can fall below the level by chance."
    )
    return StudyTable("At fixed retention", note, heads, rows)


def candidates_table(record: StudyRecord) -> StudyTable:
    """Return which setting and share stand behind each number of the headline."""
    rows = [
        [method.name, *(method.chosen[level].text for level in record.retentions)]
        for method in methods_of(record).values()
    ]
    note = "The candidate of each method at each level: its setting, and the share of the fine-tuned weights (WiSE-FT)."
    return StudyTable("Chosen candidates", note, ["method", *(f"{100 * r:g} %" for r in record.retentions)], rows)


def hypervolume_table(record: StudyRecord) -> StudyTable:
    """Return the hypervolume of each front, and the search behind it."""
    rows = []
    for method in methods_of(record).values():
        areas = [10_000 * area for area in record.hypervolume[method.name].values()]
        minutes = [run.minutes for run in method.runs if run.minutes is not None]
        rows.append(
            [
                method.name,
                _with_interval(areas) if areas else "no common seed",
                str(len(method.front)),
                str(len(runs_by_setting(method.runs))),
                str(len(method.candidates) - 1),
                str(len(method.runs)),
                f"{sum(minutes):.0f}" if len(minutes) == len(method.runs) else "not known",
            ]
        )
    note = (
        "Hypervolume: the area between the front on the test split and the point of 90 % of the base's "
        f"{_words(record.retain)} accuracy and the base's {_words(record.metric)}, in points squared; mean and 95 % "
        "interval over seeds. The front is chosen on the validation split. The other columns are the search: points of "
        "the front, settings, candidates (settings with all seeds, times shares), runs, and minutes of training."
    )
    heads = ["method", "hypervolume", "front", "settings", "candidates", "runs", "minutes"]
    return StudyTable("Hypervolume and budget", note, heads, rows)


def paired_table(record: StudyRecord) -> StudyTable:
    """Return the differences between the reference and every other method, seed by seed."""
    methods = methods_of(record)
    reference = methods[record.reference]
    rows = []
    for method in methods.values():
        if method.name == reference.name:
            continue
        row, num_seeds = [method.name], 0
        for level in record.retentions:
            own, other = (_by_seed(record, one, level, record.metric) for one in (reference, method))
            differences = paired_differences(own, other)
            num_seeds = len(differences)
            row.append(_with_interval([100 * d for d in differences], sign="+") if differences else "no common seed")
        areas = paired_differences(record.hypervolume[reference.name], record.hypervolume[method.name])
        row.append(_with_interval([10_000 * d for d in areas], sign="+") if areas else "no common seed")
        rows.append([*row, str(num_seeds)])
    note = (
        f"{reference.name} minus each other method on the test split: {_words(record.metric)} at each level, in "
        "points, and hypervolume, in points squared; mean and 95 % interval of the differences of runs of one seed."
    )
    heads = [f"{reference.name} less", *(f"at {100 * r:g} %" for r in record.retentions), "hypervolume", "seeds"]
    return StudyTable("Paired differences", note, heads, rows)


def subtasks_table(record: StudyRecord) -> StudyTable:
    """Return every sub-task at the candidate of the middle level."""
    methods = methods_of(record).values()
    level = middle_level(record)
    rows = []
    for name in record.subtasks:
        means = [fmean(_values(record, method, level, name)) for method in methods]
        rows.append([name, _percent(record.base.test[name]), *map(_percent, means)])
    note = f"Test split by sub-task, percent, mean over seeds, of the candidates at {100 * level:g} %."
    return StudyTable("Sub-tasks", note, ["sub-task", "base model", *(method.name for method in methods)], rows)


def study_tables(record: StudyRecord) -> list[StudyTable]:
    """Return all tables, the headline first."""
    make = (retention_table, candidates_table, hypervolume_table, paired_table, subtasks_table)
    return [function(record) for function in make]


def notices(record: StudyRecord) -> list[str]:
    """Return what a reader must know before the tables: missing intervals, and settings that are no candidates."""
    methods = methods_of(record)
    texts = []
    if alone := [name for name, method in methods.items() if len({run.seed for run in method.runs}) == 1]:
        texts.append(f"No intervals for {', '.join(alone)}: there is one seed only.")
    for name, method in methods.items():
        if missing := incomplete_settings(method.runs):
            counts = ", ".join(f"{setting} ({count})" for setting, count in missing.items())
            texts.append(f"Settings of {name} that have fewer seeds than others, and so are no candidates: {counts}.")
    return texts


def middle_level(record: StudyRecord) -> float:
    """Return the middle one of the levels of retention."""
    return sorted(record.retentions)[len(record.retentions) // 2]


def cell(values: Sequence[float], candidate: Candidate) -> str:
    """Return mean and interval in percent; the base model has no runs, and so no interval.

    Args:
        values: fractions, one per seed.
        candidate: whose they are.
    """
    return f"{_percent(values[0])} (base)" if candidate.is_base else _with_interval([100 * value for value in values])


def _values(record: StudyRecord, method: Method, level: float, name: str) -> list[float]:
    return list(_by_seed(record, method, level, name).values())


def _by_seed(record: StudyRecord, method: Method, level: float, name: str) -> Mapping[int, float]:
    return scores_on_test(method, method.chosen[level], record.base.test, name)


def _kept(general: Sequence[float], record: StudyRecord) -> str:
    """Return general accuracy and its share of the base's, in percent."""
    return f"{_percent(fmean(general))} ({_percent(fmean(general) / record.base.test[record.retain])})"


def _with_interval(values: Sequence[float], sign: str = "") -> str:
    mean, half = mean_and_interval(values)
    return f"{mean:{sign}.1f}" + ("" if math.isnan(half) else f" ± {half:.1f}")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _levels(record: StudyRecord) -> int:
    return len(record.retentions)
