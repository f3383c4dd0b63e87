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
from degla.evaluation.items import ImageRef
from degla.models.imagenet import IMAGENET_CLASSES, IMAGENET_TEMPLATES


class Labelled(NamedTuple):
    """A test set, with the names of its classes and the templates of its prompts."""

    images: list[ImageRef]
    labels: list[int]
    classes: list[str]
    templates: list[str]  # with {} for the name of the class

    def check(self) -> None:
        """Check that there are images and that every label names a class.

        Raises:
            ValueError: the data cannot be scored.
        """
        if not self.images:
            raise ValueError("it holds no images")
        wrong = [label for label in self.labels if not 0 <= label < len(self.classes)]
        if wrong:
            raise ValueError(f"label {wrong[0]} of {len(self.classes)} classes")

    def prompts(self) -> list[str]:
        """Return ``C * P`` texts, the prompts of one class after those of another."""
        return [template.replace("{}", name) for name in self.classes for template in self.templates]


class Dataset(NamedTuple):
    """How to read a test set, and how to prompt for its classes."""

    open: Callable[[Path], Any]  # returns torchvision's data set; raises where it is missing
    files: Callable[[Any], Iterable[Any]]  # its image files, or arrays of pixels
    labels: Callable[[Any], Sequence[int]]
    classes: str  # the attribute that holds the class names
    webdataset: str  # name of the WebDataset copy
    templates: list[str]
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
    classes = IMAGENET_CLASSES if name == "imagenet" else [_worded(text) for text in getattr(data, recipe.classes)]
    return Labelled(images, [int(label) for label in recipe.labels(data)], classes, recipe.templates)


def read_webdataset(name: str, root: Path) -> Labelled:
    """Read a copy in ``<root>/wds_<name>``.

    The folder holds ``classnames.txt``, ``zeroshot_classification_templates.txt`` and ``test/*.tar``.

    Args:
        name: a key of ``DATASETS``.
        root: folder of the copies.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a shard holds an image without a label.
    """
    folder = root / f"wds_{DATASETS[name].webdataset}"
    classes = (folder / "classnames.txt").read_text(encoding="utf-8").splitlines()
    templates = (folder / "zeroshot_classification_templates.txt").read_text(encoding="utf-8").splitlines()
    shards = sorted((folder / "test").glob("*.tar"), key=lambda path: (len(path.name), path.name))
    if not shards:
        raise FileNotFoundError(f"no shards in {folder / 'test'}")
    images: list[ImageRef] = []
    numbers: list[int] = []
    for shard in shards:
        members: dict[str, ImageRef] = {}
        own: dict[str, int] = {}
        with tarfile.open(shard) as archive:
            for entry in archive:
                path = PurePosixPath(entry.name)  # drops a leading "./"
                name, _, suffix = path.name.partition(".")
                if not entry.isfile() or not name:
                    continue
                stem = str(path.with_name(name))
                if suffix == "cls":
                    own[stem] = int(_content(archive, entry))
                elif suffix.lower() in ("jpg", "jpeg", "png", "webp"):
                    members[stem] = ImageRef(str(shard), span=(entry.offset_data, entry.size))
        if set(members) != set(own):
            raise ValueError(f"{shard}: {min(set(members) ^ set(own))} has not both an image and a label")
        images += members.values()
        numbers += [own[stem] for stem in members]
    return Labelled(images, numbers, classes, [template.replace("{c}", "{}") for template in templates if template])


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(entry)
    if file is None:
        raise ValueError(f"{entry.name} is not a file")
    return file.read()


def _worded(name: str) -> str:
    """Turn the name of a folder into words."""
    return " ".join(name.replace("_", " ").replace("/", " ").split())


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


_LOOKS: tuple[str, ...] = ("photo of a", "blurry photo of a", "black and white photo of a", "low contrast photo of a")
_LOOKS += ("high contrast photo of a", "bad photo of a", "good photo of a", "photo of a small", "photo of a big")
_CIFAR = [f"a {look} {{}}." for look in _LOOKS]
_CARS = ["a photo of a {}.", "a photo of the {}.", "a photo of my {}.", "i love my {}!"]
_CARS += [f"a photo of my {state} {{}}." for state in ("dirty", "clean", "new", "old")]
_CALTECH = ["a photo of a {}.", "a painting of a {}.", "a plastic {}.", "a sculpture of a {}.", "a sketch of a {}."]
_CALTECH += ["a tattoo of a {}.", "a toy {}.", "a rendition of a {}.", "a embroidered {}.", "a cartoon {}."]
_CALTECH += ["a {} in a video game.", "a plushie {}.", "a origami {}.", "art of a {}.", "graffiti of a {}."]
_CALTECH += ["a drawing of a {}.", "a doodle of a {}."]


def _the(templates: list[str]) -> list[str]:
    """Add each template once more with the definite article in place of the indefinite one."""
    again = []
    for template in templates:
        if " of a " in template:
            again.append(template.replace(" of a ", " of the "))
        else:
            again.append(template.replace("a ", "the ", 1))
    return templates + again


DATASETS: dict[str, Dataset] = {
    "cifar10": Dataset(
        lambda root: tv.CIFAR10(root, train=False),
        lambda data: list(data.data),
        attrgetter("targets"),
        "classes",
        "vtab-cifar10",
        _the(_CIFAR),
        10_000,
    ),
    "cifar100": Dataset(
        lambda root: tv.CIFAR100(root, train=False),
        lambda data: list(data.data),
        attrgetter("targets"),
        "classes",
        "vtab-cifar100",
        _the(_CIFAR),
        10_000,
    ),
    "food101": Dataset(
        lambda root: tv.Food101(root, split="test"),
        image_files,
        labels,
        "classes",
        "food101",
        ["a photo of {}, a type of food."],
        25_250,
    ),
    "pets": Dataset(
        lambda root: tv.OxfordIIITPet(root, split="test"),
        image_files,
        labels,
        "classes",
        "vtab-pets",
        ["a photo of a {}, a type of pet."],
        3669,
    ),
    "flowers102": Dataset(
        lambda root: tv.Flowers102(root, split="test"),
        image_files,
        labels,
        "classes",
        "vtab-flowers",
        ["a photo of a {}, a type of flower."],
        6149,
    ),
    "sun397": Dataset(
        tv.SUN397,
        image_files,
        labels,
        "classes",
        "sun397",
        _the(["a photo of a {}."]),
        19_850,  # of CLIP's split; torchvision has all 108,754 images, which a note under the table says
    ),
    "cars": Dataset(
        lambda root: tv.StanfordCars(root, split="test"),
        image_files,
        labels,
        "classes",
        "cars",
        _CARS,
        8041,
    ),
    "dtd": Dataset(
        lambda root: tv.DTD(root, split="test"),
        image_files,
        labels,
        "classes",
        "vtab-dtd",
        _the([f"a photo of a {{}} {what}." for what in ("texture", "pattern", "thing", "object")]),
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
        _the(_CALTECH),
        6085,  # of VTAB's split; torchvision has no split, which a note under the table says
    ),
    "aircraft": Dataset(
        lambda root: tv.FGVCAircraft(root, split="test"),
        image_files,
        labels,
        "classes",
        "fgvc_aircraft",
        _the(["a photo of a {}, a type of aircraft."]),
        3333,
    ),
    "imagenet": Dataset(
        lambda root: tv.ImageNet(root / "imagenet", split="val"),
        lambda data: [path for path, _ in data.samples],
        attrgetter("targets"),
        "classes",
        "imagenet1k",
        IMAGENET_TEMPLATES,
        50_000,
    ),
}
