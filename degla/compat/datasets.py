"""Private names of datasets, read in version 5.2.0."""

from datasets import Dataset


def fingerprint(dataset: Dataset) -> str:
    """Return a hash of a table's rows and of the transforms that made them.

    ``datasets.Dataset._fingerprint``; ``datasets`` names its own cache files by it.
    Source: https://github.com/huggingface/datasets/blob/main/src/datasets/fingerprint.py
    """
    return str(dataset._fingerprint)
