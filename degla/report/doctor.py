"""What data the benchmarks find on this machine, and where the rest is had."""

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from degla.evaluation import Task


def print_survey(tasks: Mapping[str, Task]) -> None:
    """A line a subset: items against the official count, images found, and what to do."""
    console = Console()
    table = Table("benchmark", "subset", "items", "official", "images", title="What is here")
    advice: dict[str, None] = {}
    for name, task in track(tasks.items(), "Looking", console=console, transient=True):
        for row in task.survey():
            whole = row.num_items and row.official_count in (None, row.num_items)
            images = f"{row.num_found} of {row.num_images}" if row.num_items else "-"
            table.add_row(
                escape(name),
                escape(row.part),
                f"[{'green' if whole else 'red'}]{row.num_items or 'missing'}[/]",
                "-" if row.official_count is None else str(row.official_count),
                f"[{'green' if row.num_found == row.num_images else 'red'}]{images}[/]",
            )
            if row.missing:
                what = row.missing if row.num_items == 0 else f"benchmark.{name}: {row.missing}; {row.download_hint}"
                advice.setdefault(what.removesuffix(f"; {row.download_hint}") + f"\n    {row.download_hint}")
    console.print(table)
    for line in advice:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if not advice:
        console.print("Everything is here.")
