"""Sources, batches and the DataModule.

Importing the package imports no torch.
"""

from degla.data.schema import NEGATIVE_TYPES, Negative, Problem, Sample

__all__ = ["NEGATIVE_TYPES", "Negative", "Problem", "Sample"]
