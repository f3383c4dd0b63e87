"""The types of benchmark items: images, choices among captions, and answers."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torchvision.transforms.v2 import functional as F

from degla.data.images import BadImage, decode, read_file


@dataclass(frozen=True)
class ImageRef:
    """A reference to one image: a file, a part of an archive, or bytes in memory.

    Args:
        path: the file, or the archive that holds it; ``sha256:...`` where ``data`` holds it.
        span: first byte and number of bytes inside an archive.
        box: x, y, width and height in pixels of the part that is used; None uses the whole image.
        data: the encoded file.
    """

    path: str
    span: tuple[int, int] | None = None
    box: tuple[int, int, int, int] | None = None
    data: bytes | None = field(default=None, repr=False, compare=False)

    @classmethod
    def embedded(cls, data: bytes) -> "ImageRef":
        """Return a reference to an image whose encoded bytes are in memory."""
        return cls(f"sha256:{hashlib.sha256(data).hexdigest()}", data=data)

    @property
    def name(self) -> str:
        """The path, with the part of the file that is used."""
        part = f"@{self.span[0]}" if self.span else f"[{','.join(map(str, self.box))}]" if self.box else ""
        return self.path + part

    def key(self) -> str:
        """Return a key that changes when the file does, so that cached features never belong to another image."""
        if self.data is not None:
            return f"{self.path}{self.box or ''}"
        try:
            stat = Path(self.path).stat()
        except OSError:
            return f"missing {self.path}"
        identity = f"{Path(self.path).resolve()} {stat.st_size} {stat.st_mtime_ns} {self.span} {self.box}"
        return hashlib.sha256(identity.encode()).hexdigest()

    def exists(self) -> bool:
        """Return whether the bytes are in memory or the file exists; the file is not opened."""
        return self.data is not None or Path(self.path).is_file()

    def read(self) -> bytes:
        """Return the bytes of the encoded image.

        Raises:
            BadImage: it cannot be read.
        """
        if self.data is not None:
            return self.data
        return read_file(self.path, self.span)

    def load(self) -> Tensor:
        """Decode the image, cropped to its box, as ``(3, H, W)`` uint8, RGB.

        Raises:
            BadImage: the image is missing or corrupt, or its box has no area.
        """
        pixels = decode(self.read(), self.name)
        if self.box is None:
            return pixels
        x, y, width, height = self.box
        if width < 1 or height < 1:
            raise BadImage(f"its box is empty: {self.name}")
        part: Tensor = F.crop(pixels, y, x, height, width)
        return part


class Choice(NamedTuple):
    """One image and two or more captions, of which the first is correct."""

    subset: str
    item: str  # unique within the subset
    image: ImageRef
    captions: tuple[str, ...]
    group: str = ""  # the group that a macro average weights; "" is left out of it


class Outcome(NamedTuple):
    """The answer to one item."""

    subset: str
    item: str
    correct: bool
    tie: bool
    margin: float  # score of the correct answer minus that of the best wrong one
    chance: float  # probability of a correct answer by guessing
    image: str
    caption: str = ""
    rival: str = ""  # the best wrong answer
    group: str = ""
