"""What the generator of negatives tells on the console."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from degla.hard_negatives.dataset import Summary


def print_summary(summary: Summary, folder: Path) -> None:
    """A line a kind, and where the rest is."""
    console = Console()
    table = Table(
        "kind", "negatives", "none", "most often because", "without an image", title=f"{summary.num_rows} captions"
    )
    blind = {row.kind: row for row in summary.blind}
    for kind in dict.fromkeys([*summary.accepted, *summary.reasons]):
        reasons = summary.reasons.get(kind, {})
        why = max(reasons, key=reasons.get) if reasons else ""
        row = blind.get(kind)
        shown = "" if row is None or row.accuracy != row.accuracy else f"{100 * row.accuracy:.1f}"
        table.add_row(kind, str(summary.accepted[kind]), str(sum(reasons.values())), why, shown)
    console.print(table)
    console.print(
        "The last column: percent of pairs in which a model that reads only the texts finds the caption; 50 is chance.",
        style="dim",
    )
    if summary.num_without_image:
        console.print(
            f"{summary.num_without_image} of {summary.num_rows} rows name no image; training needs one: image=<column>",
            style="yellow",
            highlight=False,
        )
    if sum(summary.dropped.values()):
        console.print(f"{sum(summary.dropped.values())} negatives were dropped for balance.", highlight=False)
    for name in ("captions.parquet", "README.md", "log/rejected.parquet"):
        console.print(f"{name:<22} {folder / name}", soft_wrap=True, markup=False, highlight=False)
