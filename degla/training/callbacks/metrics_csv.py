"""Every logged number in one file that survives a kill and grows with each resume."""

import csv
import os
from pathlib import Path

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only


class MetricsCsv(Logger):
    """Appends ``step,name,value`` lines to ``metrics.csv``.

    Lightning's own CSV logger deletes the file of the run that it resumes. A resumed run repeats the steps
    since its checkpoint; readers take the last value of a step.

    Args:
        path: the file.
    """

    def __init__(self, path: str):
        super().__init__()
        self.path = Path(path)
        self._is_whole = False

    @property
    def name(self) -> str:
        """Required by Lightning."""
        return "metrics"

    @property
    def version(self) -> str:
        """Required by Lightning."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args, **kwargs) -> None:
        """Not here: the run folder holds the resolved config."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one line a metric."""
        if not self._is_whole:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _drop_half_a_line(self.path)
            self._is_whole = True
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if file.tell() == 0:
                writer.writerow(["step", "name", "value"])
            writer.writerows((step, name, float(value)) for name, value in metrics.items())


def _drop_half_a_line(path: Path) -> None:
    """What a full disk or a kill left of the last line would spoil the next."""
    if path.is_file():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
