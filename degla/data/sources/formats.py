"""Recognizes annotation files by their content and names the ``data=`` that reads them.

All sources use it, so that a file of another source is refused with the setting that works.
"""

import codecs
import json
import re
from pathlib import Path
from typing import NamedTuple

from degla.errors import ConfigError

_HEAD, _TAIL = 2**18, 2**16  # bytes that are read; COCO's captions are at the end of its file
_KEY = re.compile(rb'(?<!\\)"([A-Za-z_][A-Za-z_0-9 ]{0,40})"\s*:')


class FileFormat(NamedTuple):
    """A file format, and the setting or command that reads it.

    ``remedy`` may contain ``{path}``, ``{folder}`` (the file's folder), ``{name}`` and ``{stem}``.
    """

    name: str  # with its article
    remedy: str

    def refusal(self, path: Path, key: str) -> ConfigError:
        """Return the error that names this format and its remedy.

        Args:
            path: the file or folder.
            key: the config key that names it.
        """
        names = {"path": path, "folder": path.parent, "name": path.name, "stem": path.stem}
        return ConfigError(f"{key}: {path} is {self.name}; {self.remedy.format(**names)}")


_TABLE = "set data=folder data.path={folder} data.annotations={name}"
_RENAME = "rename the columns of images and captions to image and caption, and " + _TABLE
_BENCHMARK = "it measures models and does not train them: use degla-evaluate with benchmark="
_DOWNLOAD = "download the file itself again"

AUTHORS_JSON = FileFormat(
    "the authors' JSON of negatives", "set data=coco data.annotations={path} data.image_root=/path/to/train2014"
)
NEGCLIP_TSV = FileFormat(
    "NegCLIP's TSV", "set data=negclip_tsv data.annotations={path} data.image_root=/path/to/the/parent/of/coco"
)
CSV = FileFormat("a CSV table of captions", _TABLE)
TSV = FileFormat("a TSV table of captions", _TABLE)
JSON_LINES = FileFormat("a file of JSON lines with captions", _TABLE)
PARQUET = FileFormat("a Parquet file", _TABLE)
JSON_LIST = FileFormat("a JSON list of images with captions (as BLIP's)", _TABLE)
KARPATHY_JSON = FileFormat(
    "Karpathy's JSON of splits and sentences",
    "no data= reads it: write one JSON line of image and caption for each sentence of the split that you train on, "
    "and set data=folder data.path=/folder/of/that/file",
)
COCO_CAPTIONS = FileFormat(
    "COCO's captions JSON",
    "make negatives from it with degla-negatives input={path}, and read the result with data=folder",
)
COCO_OBJECTS = FileFormat(
    "COCO's JSON of objects, which has no captions", "use captions_train2014.json of the same download"
)
OTHER_TABLE = FileFormat("a table without the columns image and caption", _RENAME)
OBJECT_ARRAY = FileFormat(
    "an .npy file, such as those of CE-CLIP's authors",
    "set data=ce_clip_npy data.annotations={path} data.image_root=/path/to/train2014",
)
SUGARCREPE = FileFormat("a file of the SugarCrepe benchmark", _BENCHMARK + "sugarcrepe")
VALSE = FileFormat("a file of the VALSE benchmark", _BENCHMARK + "valse")
ARO = FileFormat("a file of the ARO benchmark", _BENCHMARK + "aro")
ARROW = FileFormat("an Arrow file of the datasets library", "set data=huggingface data.path={folder}")
TAR = FileFormat(
    "a tar archive", "if it is WebDataset, set data=huggingface data.path=webdataset data.data_files={path}"
)
ARCHIVE = FileFormat("a compressed file", "unpack it first")
IMAGE = FileFormat("an image", "name the file of captions instead")
WEB_PAGE = FileFormat("a web page, not the data", _DOWNLOAD)
LFS_POINTER = FileFormat("a Git LFS pointer, not the data", "run git lfs pull in its repository")
UTF16 = FileFormat("text in UTF-16", "save it as UTF-8")
EMPTY = FileFormat("an empty file", _DOWNLOAD)
SAVED_DATASET = FileFormat("a folder of the datasets library", "set data=huggingface data.path={path}")
FOLDER = FileFormat("a folder", "name a file in it; data=folder reads a folder with data.path={path}")
UNKNOWN = FileFormat("of a format that is not known", "see docs/data.md for the files that can be read")

# First bytes of a file -> its format.
_SIGNATURES = {
    b"PAR1": PARQUET,
    b"ARROW1": ARROW,
    b"\x93NUMPY": OBJECT_ARRAY,
    b"\xff\xff\xff\xff": ARROW,
    b"\x1f\x8b": ARCHIVE,
    b"PK\x03\x04": ARCHIVE,
    b"BZh": ARCHIVE,
    b"\x28\xb5\x2f\xfd": ARCHIVE,
    b"\xfd7zXZ": ARCHIVE,
    b"\xff\xd8\xff": IMAGE,
    b"\x89PNG": IMAGE,
    b"GIF8": IMAGE,
    b"version https://git-lfs": LFS_POINTER,
    codecs.BOM_UTF16_LE: UTF16,
    codecs.BOM_UTF16_BE: UTF16,
}

# Formats whose parser is chosen by the file's suffix.
_SUFFIXES = {CSV: ".csv", TSV: ".tsv", JSON_LINES: ".jsonl", PARQUET: ".parquet", JSON_LIST: ".json"}


def require(path: Path, expected: tuple[FileFormat, ...], key: str) -> None:
    """Refuse a file that is recognized as another format than the source reads.

    Args:
        path: the file.
        expected: formats that the source reads. A format that is not recognized is left to the source's parser.
        key: the config key that names the file.

    Raises:
        ConfigError: it is another format; the message says which, and which ``data=`` reads it.
    """
    seen = sniff(path)
    if seen in expected or seen == UNKNOWN:
        return
    raise seen.refusal(path, key)


def require_suffix(path: Path, key: str) -> None:
    """Refuse a table whose suffix belongs to another format than its content.

    Args:
        path: the file.
        key: the config key that names it.

    Raises:
        ConfigError: the suffix is wrong; the message says how to rename the file.
    """
    seen = sniff(path)
    suffix = _SUFFIXES.get(seen, path.suffix)
    if suffix != path.suffix:
        raise ConfigError(
            f"{key}: {path.name} is {seen.name} but ends in {path.suffix}; rename it to {path.stem}{suffix}"
        )


def sniff(path: Path) -> FileFormat:
    """Return the format of a file or folder, read from its content."""
    if path.is_dir():
        is_saved = (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()
        return SAVED_DATASET if is_saved else FOLDER
    with path.open("rb") as file:
        head = file.read(_HEAD)
        size = file.seek(0, 2)
        file.seek(max(len(head), size - _TAIL))
        tail = file.read(_TAIL)
    for signature, file_format in _SIGNATURES.items():
        if head.startswith(signature):
            return file_format
    if head[257:262] == b"ustar":
        return TAR
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if not text:
        return EMPTY
    if text[:1] in b"[{":
        return _sniff_json(text, tail, path.suffix)
    if re.match(rb"<(!doctype html|html|\?xml)", text, re.IGNORECASE):
        return WEB_PAGE
    return _sniff_table(text)


def _sniff_json(head: bytes, tail: bytes, suffix: str) -> FileFormat:
    keys = {match.decode() for match in _KEY.findall(head) + _KEY.findall(tail)}
    if {"images", "sentences"} <= keys or {"images", "sentids"} <= keys:
        return KARPATHY_JSON
    if {"original", "enhanced"} <= keys:
        return AUTHORS_JSON
    if keys & {"caption_options", "true_caption"}:
        return ARO
    if {"caption", "foil"} <= keys and "units" not in keys:  # a unit has a foil, too
        return VALSE
    if head[:1] == b"{" and {"filename", "caption", "negative_caption"} <= keys and suffix != ".jsonl":
        return SUGARCREPE
    if head[:1] == b"{" and "images" in keys and "annotations" in keys:
        return COCO_CAPTIONS if "caption" in keys else COCO_OBJECTS
    has_captions = {"image", "caption"} <= keys
    if head[:1] == b"[":
        return JSON_LIST if has_captions else OTHER_TABLE if keys else UNKNOWN
    if suffix == ".jsonl" or _is_object(head.partition(b"\n")[0]):
        return JSON_LINES if has_captions else OTHER_TABLE
    return UNKNOWN


def _sniff_table(text: bytes) -> FileFormat:
    header = text.partition(b"\n")[0].decode("utf-8", errors="replace").strip("\r")
    for delimiter, file_format in (("\t", TSV), (",", CSV)):
        columns = {column.strip().strip('"') for column in header.split(delimiter)}
        if {"title", "filepath", "neg_caption"} <= columns:
            return NEGCLIP_TSV
        if {"image", "caption"} <= columns:
            return file_format
        if {"title", "filepath"} <= columns or len(columns & {"image", "caption", "filename", "text"}) > 1:
            return OTHER_TABLE
    return UNKNOWN


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
