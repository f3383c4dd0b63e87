"""The image files of a folder, found by their names.

Imports no torch.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from degla.image_index.manifest import ImageFile

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


class Listing(NamedTuple):
    """What a folder holds."""

    images: list[ImageFile]  # in the order of their paths
    problems: list[str]  # folders and files that cannot be listed


def list_images(folder: Path) -> Listing:
    """List the image files in a folder and in all folders below it.

    Hidden files and folders are left out, and so are links to folders, which could lead in circles.

    Args:
        folder: where to look.
    """
    problems: list[str] = []
    images: list[ImageFile] = []
    for path in _walk(folder, problems):
        name = os.path.relpath(path, folder)
        try:
            name.encode()
            status = path.stat()
        except UnicodeEncodeError:
            problems.append(f"{name!r}: its name is not UTF-8")
        except OSError as error:
            problems.append(f"{name}: {error.strerror}")
        else:
            images.append(ImageFile(Path(name).as_posix(), status.st_size, status.st_mtime_ns))
    return Listing(sorted(images), problems)


def _walk(folder: Path, problems: list[str]) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        problems.append(f"{os.path.relpath(str(error.filename), folder)}: {error.strerror}")

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(parent, name)
