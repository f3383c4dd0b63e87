"""What benchmarks are made of: images, questions about them, and how each was answered."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torchvision.transforms.v2 import functional as F

from degla.data.transforms import BadImage, decode


@dataclass(frozen=True)
class ImageRef:
    """One image, wherever its bytes are.

    Args:
        path: its file, or the archive that holds it; ``sha256:...`` where ``data`` holds it.
        span: first byte and number of bytes inside an archive.
        box: x, y, width and height in pixels of the part that is shown; None shows all of it.
        data: the encoded file.
    """

    path: str
    span: tuple[int, int] | None = None
    box: tuple[int, int, int, int] | None = None
    data: bytes | None = field(default=None, repr=False, compare=False)

    @classmethod
    def embedded(cls, data: bytes) -> "ImageRef":
        """An image whose encoded bytes are at hand."""
        return cls(f"sha256:{hashlib.sha256(data).hexdigest()}", data=data)

    @property
    def name(self) -> str:
        """For people: the path, and the part of it."""
        part = f"@{self.span[0]}" if self.span else f"[{','.join(map(str, self.box))}]" if self.box else ""
        return self.path + part

    def key(self) -> str:
        """Changes when the file does, so that stored features are never those of another image."""
        if self.data is not None:
            return f"{self.path}{self.box or ''}"
        try:
            stat = Path(self.path).stat()
        except OSError:
            return f"missing {self.path}"
        known = f"{Path(self.path).resolve()} {stat.st_size} {stat.st_mtime_ns} {self.span} {self.box}"
        return hashlib.sha256(known.encode()).hexdigest()

    def read(self) -> bytes:
        """The encoded file.

        Raises:
            BadImage: it cannot be read.
        """
        if self.data is not None:
            return self.data
        try:
            if self.span is None:
                return Path(self.path).read_bytes()
            with Path(self.path).open("rb") as archive:
                archive.seek(self.span[0])
                return archive.read(self.span[1])
        except FileNotFoundError as error:
            raise BadImage(f"no such file: {self.path}") from error
        except OSError as error:
            raise BadImage(f"{error.strerror}: {self.path}") from error

    def load(self) -> Tensor:
        """``(3, H, W)`` uint8, RGB, cut to the box.

        Raises:
            BadImage: missing, corrupt, or a box without area.
        """
        pixels = decode(self.read(), self.name)
        if self.box is None:
            return pixels
        x, y, width, height = self.box
        if width < 1 or height < 1:
            raise BadImage(f"its box is empty: {self.name}")
        return F.crop(pixels, y, x, height, width)


class Choice(NamedTuple):
    """One image and captions of which the first is right."""

    subset: str
    item: str  # unique within the subset
    image: ImageRef
    captions: tuple[str, ...]
    group: str = ""  # what a macro average is taken over; "" is left out of it


class Outcome(NamedTuple):
    """How one item was answered."""

    subset: str
    item: str
    correct: bool
    tie: bool
    margin: float  # score of the right answer less that of the best wrong one
    chance: float  # of being right without knowing anything
    image: str
    caption: str = ""
    rival: str = ""  # the best wrong answer
    group: str = ""
