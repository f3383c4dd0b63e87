"""The summary that ``degla-negatives`` prints at its end."""

import math
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from degla.hard_negatives.card import headline, text_only_sentence
from degla.hard_negatives.dataset import Summary


def print_summary(summary: Summary, folder: Path) -> None:
    """Print the result in a sentence, one row per kind, and where the files are.

    Args:
        summary: from ``write_dataset``.
        folder: the output folder.
    """
    console = Console()
    console.print(headline(summary), style="bold", highlight=False)
    console.print(_kinds_table(summary))
    console.print(text_only_sentence(summary), style="dim", highlight=False)
    if summary.num_without_image:
        console.print(
            f"{summary.num_without_image} of {summary.num_rows} rows name no image; training needs one: image=<column>",
            style="yellow",
            highlight=False,
        )
    if num_dropped := sum(summary.dropped.values()):
        console.print(f"{num_dropped} negatives were dropped for balance.", highlight=False)
    for name in ("captions.parquet", "README.md", "log/rejected.parquet"):
        console.print(f"{name:<22} {folder / name}", soft_wrap=True, markup=False, highlight=False)


def _kinds_table(summary: Summary) -> Table:
    table = Table("kind", "negatives", "rejected", "most often because", "text-only, percent")
    accuracy_by_kind = {row.kind: row.accuracy for row in summary.text_only}
    for kind in dict.fromkeys([*summary.accepted, *summary.reasons]):
        reasons = summary.reasons.get(kind, Counter())
        reason = max(reasons, key=lambda name: reasons[name]) if reasons else ""
        accuracy = accuracy_by_kind.get(kind, math.nan)
        shown = "" if math.isnan(accuracy) else f"{100 * accuracy:.1f}"
        table.add_row(kind, str(summary.accepted[kind]), str(sum(reasons.values())), reason, shown)
    return table
