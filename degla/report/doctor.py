"""A survey of the benchmark data on this machine, and where to download the rest."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import track

from degla.evaluation import Task
from degla.evaluation.task import Survey

_MAX_NAMED = 3  # parts with another number of items that a line names


def print_survey(tasks: Mapping[str, Task]) -> None:
    """Print one line per benchmark: its items, its images, and the first thing to do."""
    console = Console()
    surveys = {
        name: task.survey()
        for name, task in track(
            tasks.items(), "Looking", console=console, transient=True, disable=not console.is_terminal
        )
    }
    lines = [
        ("benchmark", "items", "images, by part", "what to do"),
        *(_line(name, rows) for name, rows in surveys.items()),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line[:3], widths, strict=False))
        console.print(f"{text}  {line[3]}", markup=False, highlight=False, soft_wrap=True)
    if all(line[3] == "ready" for line in lines[1:]):
        console.print("Everything is here.")


def _line(name: str, rows: Sequence[Survey]) -> tuple[str, str, str, str]:
    num_items = sum(row.num_items for row in rows)
    num_missing = sum(row.num_items == 0 for row in rows)
    items = f"{num_items}, {num_missing} of {len(rows)} parts missing" if num_missing else str(num_items)
    images = f"{sum(row.num_found for row in rows)} of {sum(row.num_images for row in rows)}" if num_items else "-"
    return name, items, images, _hint(rows)


def _hint(rows: Sequence[Survey]) -> str:
    """Name the first thing that is missing and where to download it, else what differs from the published data."""
    for row in rows:
        if row.num_items == 0:  # the message names file and source already
            return row.missing
    for row in rows:
        if row.missing:
            return f"{row.missing} is missing; {row.download_hint}"
    other = [row for row in rows if row.official_count not in (None, row.num_items)]
    if other:
        counts = ", ".join(f"{row.part} {row.num_items} of {row.official_count}" for row in other[:_MAX_NAMED])
        more = f" and {len(other) - _MAX_NAMED} more" if len(other) > _MAX_NAMED else ""
        return f"ready, but not the published items: {counts}{more}"
    return "ready"
