"""All logged numbers in one file, which survives a kill and grows with each resume."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only


class MetricsCsv(Logger):
    """Appends ``step,name,value`` lines to ``metrics.csv``.

    Lightning's own CSV logger deletes the file of the run that it resumes. A resumed run repeats the steps since its
    checkpoint; readers take the last value of a step.

    Args:
        path: the file.
    """

    def __init__(self, path: str):
        super().__init__()
        self.path = Path(path)
        self._is_repaired = False  # whether a truncated last line has been removed

    @property
    def name(self) -> str:
        """Return the name that Lightning asks for."""
        return "metrics"

    @property
    def version(self) -> str:
        """Return the version that Lightning asks for."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing; the run folder holds the resolved config."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line per metric, except Lightning's ``epoch``: one epoch is the whole run."""
        if not self._is_repaired:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _remove_truncated_line(self.path)
            self._is_repaired = True
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if file.tell() == 0:
                writer.writerow(["step", "name", "value"])
            writer.writerows((step, name, float(value)) for name, value in metrics.items() if name != "epoch")


def _remove_truncated_line(path: Path) -> None:
    """Remove a last line that a kill or a full disk truncated; the next line would be appended to it."""
    if path.is_file():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
