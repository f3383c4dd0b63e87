"""Images with class labels: torchvision's data sets, and the WebDataset copies of CLIP_benchmark."""

import io
import tarfile
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torchvision.datasets as tv
from numpy.typing import NDArray
from PIL import Image

from degla.compat.torchvision import image_files, labels
from degla.evaluation.class_names import class_indices, wording
from degla.evaluation.items import ImageRef


class Labelled(NamedTuple):
    """A test set, with the names of its classes and the templates of its prompts."""

    images: list[ImageRef]
    labels: list[int]
    classes: list[str]
    templates: list[str]  # with {} for the name of the class

    def check(self) -> None:
        """Check that there are images.

        Raises:
            ValueError: there are none.
        """
        if not self.images:
            raise ValueError("it holds no images")

    def prompts(self) -> list[str]:
        """Return ``C * P`` texts: all prompts of the first class, then those of the second, and so on."""
        return [template.replace("{}", name) for name in self.classes for template in self.templates]


class Dataset(NamedTuple):
    """The reader of a test set."""

    open: Callable[[Path], Any]  # returns torchvision's data set; raises where it is missing
    files: Callable[[Any], Iterable[Any]]  # its image files, or arrays of pixels
    labels: Callable[[Any], Sequence[int]]
    classes: str  # the attribute that holds the class names
    webdataset: str  # name of the WebDataset copy
    num_test: int | None


def read_torchvision(name: str, root: Path) -> Labelled:
    """Read a test split in torchvision's layout; nothing is downloaded.

    Args:
        name: a key of ``DATASETS``.
        root: folder of the data sets.

    Raises:
        RuntimeError: a data set is missing.
        FileNotFoundError: a file is missing.
    """
    recipe = DATASETS[name]
    data = recipe.open(root)
    images = [
        ImageRef(str(file)) if isinstance(file, str | Path) else ImageRef.embedded(_png(file))
        for file in recipe.files(data)
    ]
    return _labelled(name, images, [int(label) for label in recipe.labels(data)], getattr(data, recipe.classes))


def read_webdataset(name: str, root: Path) -> Labelled:
    """Read a copy in ``<root>/wds_<name>``.

    The folder holds ``classnames.txt`` and ``test/*.tar``. Its templates are not read: the table has the same.

    Args:
        name: a key of ``DATASETS``.
        root: folder of the copies.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a shard holds an image without a label.
    """
    folder = root / f"wds_{DATASETS[name].webdataset}"
    classes = (folder / "classnames.txt").read_text(encoding="utf-8").splitlines()
    shards = sorted((folder / "test").glob("*.tar"), key=lambda path: (len(path.name), path.name))
    if not shards:
        raise FileNotFoundError(f"no shards in {folder / 'test'}")
    samples = [sample for shard in shards for sample in _read_shard(shard)]
    return _labelled(name, [image for image, _ in samples], [label for _, label in samples], classes)


def _read_shard(shard: Path) -> list[tuple[ImageRef, int]]:
    """Return the images of a shard with their labels; files of one sample have the same name up to the first dot."""
    images: dict[str, ImageRef] = {}
    label_of: dict[str, int] = {}
    with tarfile.open(shard) as archive:
        for entry in archive:
            path = PurePosixPath(entry.name)  # drops a leading "./"
            base, _, suffix = path.name.partition(".")
            if not entry.isfile() or not base:
                continue
            sample = str(path.with_name(base))
            if suffix == "cls":
                label_of[sample] = int(_content(archive, entry))
            elif suffix.lower() in ("jpg", "jpeg", "png", "webp"):
                images[sample] = ImageRef(str(shard), span=(entry.offset_data, entry.size))
    if set(images) != set(label_of):
        raise ValueError(f"{shard}: {min(set(images) ^ set(label_of))} lacks an image or a label")
    return [(image, label_of[sample]) for sample, image in images.items()]


def _labelled(name: str, images: list[ImageRef], source_labels: list[int], source_classes: Sequence[str]) -> Labelled:
    """Translate the labels of a source into indices of our table of class names."""
    wrong = [label for label in source_labels if not 0 <= label < len(source_classes)]
    if wrong:
        raise ValueError(f"label {wrong[0]} of {len(source_classes)} classes")
    indices = class_indices(name, source_classes)
    words = wording(name)
    return Labelled(images, [indices[label] for label in source_labels], words.classes, words.templates)


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(entry)
    if file is None:
        raise ValueError(f"{entry.name} is not a file")
    return file.read()


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


DATASETS: dict[str, Dataset] = {
    "cifar10": Dataset(
        lambda root: tv.CIFAR10(root, train=False),
        lambda data: list(data.data),
        attrgetter("targets"),
        "classes",
        "vtab-cifar10",
        10_000,
    ),
    "cifar100": Dataset(
        lambda root: tv.CIFAR100(root, train=False),
        lambda data: list(data.data),
        attrgetter("targets"),
        "classes",
        "vtab-cifar100",
        10_000,
    ),
    "food101": Dataset(
        lambda root: tv.Food101(root, split="test"),
        image_files,
        labels,
        "classes",
        "food101",
        25_250,
    ),
    "pets": Dataset(
        lambda root: tv.OxfordIIITPet(root, split="test"),
        image_files,
        labels,
        "classes",
        "vtab-pets",
        3669,
    ),
    "flowers102": Dataset(
        lambda root: tv.Flowers102(root, split="test"),
        image_files,
        labels,
        "classes",
        "vtab-flowers",
        6149,
    ),
    "sun397": Dataset(
        tv.SUN397,
        image_files,
        labels,
        "classes",
        "sun397",
        19_850,  # of CLIP's split; torchvision has all 108,754 images, which a note under the table says
    ),
    "cars": Dataset(
        lambda root: tv.StanfordCars(root, split="test"),
        image_files,
        labels,
        "classes",
        "cars",
        8041,
    ),
    "dtd": Dataset(
        lambda root: tv.DTD(root, split="test"),
        image_files,
        labels,
        "classes",
        "vtab-dtd",
        1880,
    ),
    "caltech101": Dataset(
        tv.Caltech101,
        lambda data: [
            Path(data.root, "101_ObjectCategories", data.categories[label], f"image_{number:04d}.jpg")
            for label, number in zip(data.y, data.index, strict=True)
        ],
        attrgetter("y"),
        "categories",
        "vtab-caltech101",
        6085,  # of VTAB's split; torchvision has no split, which a note under the table says
    ),
    "aircraft": Dataset(
        lambda root: tv.FGVCAircraft(root, split="test"),
        image_files,
        labels,
        "classes",
        "fgvc_aircraft",
        3333,
    ),
    "imagenet": Dataset(
        lambda root: tv.ImageNet(root / "imagenet", split="val"),
        lambda data: [path for path, _ in data.samples],
        attrgetter("targets"),
        "classes",
        "imagenet1k",
        50_000,
    ),
}
