"""What a training run prints."""

import logging
import warnings

# Warnings that a user can do nothing about, each a regular expression.
_IGNORED_WARNINGS = (
    ".*litlogger.*",  # an advertisement
    ".*LeafSpec.*",
    ".*treespec.*",
    ".*does not have many workers.*",
    ".*Consider increasing the value of the `num_workers`.*",
    ".*resuming from a checkpoint that ended before the epoch ended.*",  # our loader resumes within an epoch exactly
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*number of training batches .* is smaller than the logging interval.*",
    ".*It is recommended to use .*sync_dist=True.*",  # every rank logs the same value
    ".*Trying to infer the `batch_size`.*",
    ".*in eval mode at the start of training.*",  # the teacher always is
)


def quiet_lightning() -> None:
    """Hide advertisements, and warnings about Lightning's own internals."""
    for message in _IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()  # Hydra's handlers already print and keep these lines
    tips = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    tips.addFilter(lambda record: "litlogger" not in record.getMessage() and "Tip:" not in record.getMessage())
