"""The record of samples that were skipped or used only in part."""

import csv
from pathlib import Path

from degla.data.schema import Problem
from degla.errors import DataError


class ProblemLog:
    """Appends each problem once to a CSV file, and stops a run that has too many bad samples.

    Args:
        path: ``bad_rows.csv`` of the run. An existing file is read first, so that a resumed run lists nothing twice.
            None keeps the record in memory.
        num_rows: samples of the data set; None for a stream, where the samples read so far count (at least 1000).
        max_bad_fraction: share of samples that may be skipped.
    """

    def __init__(self, path: Path | None, num_rows: int | None, max_bad_fraction: float):
        self.path = path
        self.num_rows = num_rows
        self.max_bad_fraction = max_bad_fraction
        self.seen: set[Problem] = set()
        self.rows_read = 0
        if path and path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self.seen = {Problem(r["row"], r["reason"], r["skipped"] == "yes") for r in csv.DictReader(file)}

    def add(self, problems: list[Problem], rows_read: int) -> None:
        """Record the problems of one batch.

        Args:
            problems: of the batch; those already recorded are ignored.
            rows_read: samples of the batch that were used.

        Raises:
            DataError: more than ``max_bad_fraction`` of the samples are bad. The message names the last one.
        """
        self.rows_read += rows_read + sum(problem.skipped for problem in problems)
        new = [problem for problem in dict.fromkeys(problems) if problem not in self.seen]
        if not new:
            return
        self.seen.update(new)
        self._append(new)
        skipped = [problem for problem in new if problem.skipped]
        bad = len({problem.row for problem in self.seen if problem.skipped})
        rows = self.num_rows or max(self.rows_read, 1000)
        if skipped and bad > self.max_bad_fraction * rows:
            raise DataError(
                f"row {skipped[-1].row} cannot be used ({skipped[-1].reason}): {bad} bad of {rows} rows is more than "
                f"loader.max_bad_fraction={self.max_bad_fraction}; repair the data or raise the limit"
            )

    def _append(self, problems: list[Problem]) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if file.tell() == 0:
                writer.writerow(Problem._fields)
            writer.writerows((problem.row, problem.reason, "yes" if problem.skipped else "no") for problem in problems)
