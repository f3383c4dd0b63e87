"""Private names of torchvision's data sets, read in version 0.29.2.

Their public API returns decoded images; benchmarks need the files, which they decode themselves.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchvision.datasets import VisionDataset

_FILES = {"OxfordIIITPet": "_images"}  # attribute that holds the files; _image_files in all other classes


def image_files(dataset: VisionDataset) -> list[Path]:
    """Return the image files of Food101, OxfordIIITPet, Flowers102, SUN397, StanfordCars, DTD or FGVCAircraft.

    ``_image_files``, ``_images`` (OxfordIIITPet) or ``_samples`` (StanfordCars).
    Source: https://github.com/pytorch/vision/tree/main/torchvision/datasets
    """
    private: Any = dataset
    if type(dataset).__name__ == "StanfordCars":
        return [Path(path) for path, _ in private._samples]
    return [Path(path) for path in getattr(private, _FILES.get(type(dataset).__name__, "_image_files"))]


def labels(dataset: VisionDataset) -> Sequence[int]:
    """Return the class number of each image, in the order of ``image_files``.

    ``_labels``, or ``_samples`` (StanfordCars).
    Source: https://github.com/pytorch/vision/tree/main/torchvision/datasets
    """
    private: Any = dataset
    if type(dataset).__name__ == "StanfordCars":
        return [int(label) for _, label in private._samples]
    numbers: Sequence[int] = private._labels
    return numbers
