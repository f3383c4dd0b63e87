"""The end of a cross-validation: its folds in one table.

Imports no torch.
"""

import os
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class FoldSummary(Callback):
    """Hydra callback that gathers the folds of a cross-validation (``degla.report.folds``)."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write and print the summary in the process that ran the sweep."""
        if os.environ.get("RANK", "0") == "0":
            from degla.report.folds import print_folds, write_folds

            folder = Path(config.hydra.sweep.dir)
            print_folds(write_folds(folder), folder)
