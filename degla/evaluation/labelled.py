"""DecodedImages with class labels: torchvision's data sets, and the WebDataset copies of CLIP_benchmark."""

import io
import tarfile
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import torchvision.datasets as tv
from PIL import Image

from degla.evaluation.items import ImageRef
from degla.models.imagenet import IMAGENET_CLASSES, IMAGENET_TEMPLATES


class Labelled(NamedTuple):
    """A test set and how its classes are put into words."""

    images: list[ImageRef]
    labels: list[int]
    classes: list[str]
    templates: list[str]  # with {} where the class goes

    def prompts(self) -> list[str]:
        """``C * P`` texts, the prompts of a class together."""
        return [template.replace("{}", name) for name in self.classes for template in self.templates]


class Dataset(NamedTuple):
    """Where a test set is found and how it is prompted."""

    open: Callable[[Path], object]  # torchvision's data set; raises where it is missing
    files: Callable[[object], list]  # its image files, or arrays
    labels: Callable[[object], list[int]]
    classes: str  # attribute
    webdataset: str  # name of the copy
    templates: list[str]
    num_test: int | None


def read_torchvision(name: str, root: Path) -> Labelled:
    """The test split as torchvision lays it out.

    Raises:
        RuntimeError or FileNotFoundError: it is not there; nothing is downloaded.
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
    """``<root>/wds_<name>``: ``classnames.txt``, ``zeroshot_classification_templates.txt``, ``test/*.tar``.

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
    images, labels = [], []
    for shard in shards:
        members: dict[str, ImageRef] = {}
        own: dict[str, int] = {}
        with tarfile.open(shard) as archive:
            for entry in archive:
                stem, _, suffix = entry.name.partition(".")
                if suffix == "cls":
                    own[stem] = int(archive.extractfile(entry).read())
                elif suffix in ("jpg", "jpeg", "png", "webp"):
                    members[stem] = ImageRef(str(shard), span=(entry.offset_data, entry.size))
        if set(members) != set(own):
            raise ValueError(f"{shard}: {min(set(members) ^ set(own))} has not both an image and a label")
        images += members.values()
        labels += [own[stem] for stem in members]
    return Labelled(images, labels, classes, [template.replace("{c}", "{}") for template in templates if template])


def _worded(name: str) -> str:
    """A class as it is said, not as its folder is called."""
    return " ".join(name.replace("_", " ").replace("/", " ").split())


def _png(pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


_LOOKS = ("photo of a", "blurry photo of a", "black and white photo of a", "low contrast photo of a")
_LOOKS += ("high contrast photo of a", "bad photo of a", "good photo of a", "photo of a small", "photo of a big")
_CIFAR = [f"a {look} {{}}." for look in _LOOKS]
_CARS = ["a photo of a {}.", "a photo of the {}.", "a photo of my {}.", "i love my {}!"]
_CARS += [f"a photo of my {state} {{}}." for state in ("dirty", "clean", "new", "old")]
_CALTECH = ["a photo of a {}.", "a painting of a {}.", "a plastic {}.", "a sculpture of a {}.", "a sketch of a {}."]
_CALTECH += ["a tattoo of a {}.", "a toy {}.", "a rendition of a {}.", "a embroidered {}.", "a cartoon {}."]
_CALTECH += ["a {} in a video game.", "a plushie {}.", "a origami {}.", "art of a {}.", "graffiti of a {}."]
_CALTECH += ["a drawing of a {}.", "a doodle of a {}."]


def _the(templates: list[str]) -> list[str]:
    """The same once more with the definite article before the class, or where the first article stands."""
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
        lambda data: data._image_files,
        attrgetter("_labels"),
        "classes",
        "food101",
        ["a photo of {}, a type of food."],
        25_250,
    ),
    "pets": Dataset(
        lambda root: tv.OxfordIIITPet(root, split="test"),
        lambda data: data._images,
        attrgetter("_labels"),
        "classes",
        "vtab-pets",
        ["a photo of a {}, a type of pet."],
        3669,
    ),
    "flowers102": Dataset(
        lambda root: tv.Flowers102(root, split="test"),
        lambda data: data._image_files,
        attrgetter("_labels"),
        "classes",
        "vtab-flowers",
        ["a photo of a {}, a type of flower."],
        6149,
    ),
    "sun397": Dataset(
        tv.SUN397,
        lambda data: data._image_files,
        attrgetter("_labels"),
        "classes",
        "sun397",
        _the(["a photo of a {}."]),
        19_850,  # of CLIP's split; torchvision has all 108,754 images, and the table says so
    ),
    "cars": Dataset(
        lambda root: tv.StanfordCars(root, split="test"),
        lambda data: [path for path, _ in data._samples],
        lambda data: [label for _, label in data._samples],
        "classes",
        "cars",
        _CARS,
        8041,
    ),
    "dtd": Dataset(
        lambda root: tv.DTD(root, split="test"),
        lambda data: data._image_files,
        attrgetter("_labels"),
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
        6085,  # of VTAB's split; torchvision has none, and the table says so
    ),
    "aircraft": Dataset(
        lambda root: tv.FGVCAircraft(root, split="test"),
        lambda data: data._image_files,
        attrgetter("_labels"),
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
