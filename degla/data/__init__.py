"""From files to batches: sources, schema, transforms, sampling, the DataModule."""

from degla.data.schema import NEGATIVE_TYPES, Batch, Negative, Problem, Sample

__all__ = ["NEGATIVE_TYPES", "Batch", "Negative", "Problem", "Sample"]
