"""The manifest of an index: which model made it, which versions of which files are in it, and checksums.

Imports no torch.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from degla.artifacts import atomic_write

NAME = "manifest.json"


class ImageFile(NamedTuple):
    """One version of an image file; a file with another size or time counts as changed."""

    path: str  # below the folder of images, with / between folders
    size: int
    mtime_ns: int

    @property
    def key(self) -> int:
        """The number of this version in the graph, the same in every run."""
        text = f"{self.path}\0{self.size}\0{self.mtime_ns}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


class BrokenFile(NamedTuple):
    """A file that cannot be read as an image; it is tried again when it has changed."""

    file: ImageFile
    reason: str


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelRecord(_Strict):
    """The model that made an index, so that a search can load it again."""

    kind: Literal["torch", "onnx"]
    arguments: dict[str, Any]  # of ``load_clip``, or the folder of the ONNX pair
    label: str
    fingerprint: str  # hash of the weights and of the preprocessing
    embed_dim: int


class Recall(_Strict):
    """The share of the ten nearest images that the graph finds, measured against brute force."""

    texts: float  # with captions as queries
    images: float  # with images of the index as queries
    queries: int  # number of queries of each kind


class GraphRecord(_Strict):
    """The file of the graph."""

    file: str
    checksum: str
    expansion: int  # candidates that a search keeps; more of them find more and take longer


class Manifest(_Strict):
    """Everything that a search needs to know about an index."""

    format: Literal[1] = 1
    model: ModelRecord
    images: list[ImageFile]
    broken: list[BrokenFile]
    graph: GraphRecord
    recall: Recall
    made_with: dict[str, str]


class DamagedManifest(Exception):
    """A manifest that cannot be read; the message says why."""


def read_manifest(store: Path) -> Manifest | None:
    """Read the manifest of an index; return None where there is none.

    Args:
        store: folder of the index.

    Raises:
        DamagedManifest: the file does not follow the schema.
    """
    try:
        return Manifest.model_validate_json((store / NAME).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DamagedManifest(f"{where}: {first['msg']}" if where else first["msg"]) from error
    except OSError as error:
        raise DamagedManifest(str(error.strerror)) from error


def write_manifest(store: Path, manifest: Manifest) -> None:
    """Write the manifest; the index is valid from this moment.

    Args:
        store: folder of the index.
        manifest: what to write.
    """
    with atomic_write(store / NAME, flush_to_disk=True) as partial:
        partial.write_text(manifest.model_dump_json() + "\n", encoding="utf-8")
