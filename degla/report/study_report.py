"""The page, the Markdown and the console output of a study, made from its record alone."""

import html
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from degla.artifacts import atomic_write
from degla.report import page
from degla.report.figures import data_url_image, png_bytes
from degla.report.study_measure import scores_on_test
from degla.report.study_plots import LOWEST_RETENTION, fronts, subtasks
from degla.report.study_record import methods_of
from degla.report.study_schema import StudyRecord
from degla.report.study_tables import StudyTable, cell, middle_level, notices, retention_table, study_tables

_FILES = ("study.html", "study.md", "study.json", "fronts.png", "subtasks.png")
_FRONTS = (
    "Each method's front on the test split, mean and 95 % interval over seeds: the settings and shares that no other "
    "one of the method beats on the validation split. Dotted lines are levels of retention. Points below "
    f"{100 * LOWEST_RETENTION:g} % of the base's general accuracy are not drawn."
)


def write_study(record: StudyRecord, out: Path) -> None:
    """Write ``study.html``, ``study.md``, ``fronts.png`` and ``subtasks.png``.

    Args:
        record: the record of the study.
        out: folder of the files.
    """
    tables = study_tables(record)
    images = {"fronts": png_bytes(fronts(record)), "subtasks": png_bytes(subtasks(record))}
    contents = {f"{name}.png": image for name, image in images.items()}
    contents["study.md"] = _markdown(record, tables).encode()
    contents["study.html"] = _page(record, tables, images).encode()
    for name, content in contents.items():
        with atomic_write(out / name) as partial:
            partial.write_bytes(content)


def print_study(record: StudyRecord, out: Path) -> None:
    """Print the headline table and what to know about it on the console, and the paths of the files.

    Args:
        record: the record of the study.
        out: folder of the files.
    """
    headline = retention_table(record)
    shown = Table(*headline.heads, title=f"{record.metric} at fixed {record.retain}, test split, percent")
    for row in headline.rows:
        shown.add_row(*row)
    console = Console(width=max(Console().width, 118))  # narrower columns would break numbers over two lines
    console.print(shown)
    for text in notices(record):
        console.print(text, highlight=False, markup=False)
    for name in _FILES:
        if (out / name).exists():  # a study that is drawn again writes no study.json
            console.print(str(out / name), soft_wrap=True, highlight=False, markup=False)


def _page(record: StudyRecord, tables: list[StudyTable], images: dict[str, bytes]) -> str:
    """Return ``study.html``."""
    sections = [page.headline(_headline(record)), *(f"<p>{html.escape(text)}</p>" for text in notices(record))]
    figures = {
        tables[0].title: f"<p>{_FRONTS}</p>{_embedded(images['fronts'], 'fronts, one panel per question')}",
        tables[-1].title: _embedded(images["subtasks"], "accuracy of each sub-task"),
    }
    for table in tables:
        sections.append(f"<h2>{html.escape(table.title)}</h2><p>{html.escape(table.note)}</p>")
        sections.append(page.table(table.heads, table.rows))
        sections.append(figures.get(table.title, ""))
    # The record names the commit, versions and machine that measured; those of a later drawing do not matter.
    made_by = {name.replace("_", " "): text for name, text in record.provenance.items() if text and _is_text(text)}
    if made_by:
        sections += ["<h2>How this was measured</h2>", page.facts(made_by)]
    return page.page("Study: methods compared at fixed retention", sections)


def _headline(record: StudyRecord) -> dict[str, str]:
    """Return the metric at the middle level: of the base, of the reference, and of the best method."""
    level, name = middle_level(record), record.metric.replace("_", " ")
    methods = methods_of(record)
    values = {
        method.name: list(scores_on_test(method, method.chosen[level], record.base.test, record.metric).values())
        for method in methods.values()
    }
    best = max(values, key=lambda method: fmean(values[method]))
    numbers = {f"{name}, base model": f"{100 * record.base.test[record.metric]:.1f} %"}
    for method in dict.fromkeys([record.reference, best]):
        text = cell(values[method], methods[method].chosen[level])
        numbers[f"{name} at {100 * level:g} % {record.retain}, {method}"] = f"{text} %"
    return {**numbers, f"runs of {len(methods)} methods": str(len(record.runs))}


def _markdown(record: StudyRecord, tables: list[StudyTable]) -> str:
    """Return ``study.md``."""
    parts = [f"{text}\n" for text in notices(record)]
    parts += [f"## {table.title}\n\n{table.note}\n\n{table.markdown()}\n" for table in tables]
    return "\n".join(parts)


def _embedded(image: bytes, description: str) -> str:
    return data_url_image(image, "image/png", description).replace("<img ", "<img class=figure ", 1)


def _is_text(value: object) -> bool:
    return isinstance(value, str)
