"""The columns of a record that are read for some objectives only."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from degla.data.schema import Sample

# Need of an objective -> field of a sample that holds it. Second captions are not among them, because `captions` may
# also be what a step draws its caption from.
_FIELDS = {
    "negatives": "negatives",
    "units": "units",
    "paraphrases": "paraphrases",
    "negative_images": "negative_images",
}


def is_needed(column: str, needs: Collection[str]) -> bool:
    """Return whether a column is read.

    Args:
        column: name of a need, such as ``negatives``.
        needs: of the objective; ``unfiltered_negatives`` reads negatives, too.
    """
    return column in needs or (column == "negatives" and "unfiltered_negatives" in needs)


def unneeded_columns(columns: Mapping[str, str], needs: Collection[str], others: Collection[str]) -> list[str]:
    """Return the columns of a table that no need reads.

    Args:
        columns: need -> column.
        needs: of the objective.
        others: columns that are read whatever the needs are.
    """
    read = {column for need, column in columns.items() if is_needed(need, needs)} | set(others)
    return sorted(set(columns.values()) - read)


class OnlyNeeded:
    """Makes samples without what no need reads.

    It is a class, so that DataLoader workers that are spawned can receive it.

    Args:
        to_sample: makes a whole sample of a record and its number.
        needs: of the objective.
    """

    def __init__(self, to_sample: Callable[[dict[str, Any], int], Sample], needs: Collection[str]):
        self.to_sample = to_sample
        self.empty: dict[str, Any] = {field: [] for need, field in _FIELDS.items() if not is_needed(need, needs)}

    def __call__(self, record: dict[str, Any], number: int) -> Sample:
        """Make a sample of a record.

        Args:
            record: column -> value.
            number: of the row.
        """
        return self.to_sample(record, number)._replace(**self.empty)
