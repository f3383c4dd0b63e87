"""Read ``.npy`` files of Python objects without running what their pickle says.

``numpy.load`` reads such a file with ``allow_pickle=True`` only, and a pickle can call any function. Here it can make
dictionaries, lists, texts and numbers. The few names that numpy writes are replaced by inert objects; any other name is
refused.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from degla.errors import ConfigError

_MAX_BYTES = 2**32  # of a file
_NUMBERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "b1")  # types of numpy's numbers


def read_object_array(file: Path) -> list[Any]:
    """Return the objects of an ``.npy`` file with one array of objects.

    Args:
        file: written by ``numpy.save``.

    Raises:
        ConfigError: it is not such a file, it is damaged, or its pickle holds anything but plain values.
    """
    try:
        with file.open("rb") as stream:
            return _read(stream, file.stat().st_size)
    except (pickle.UnpicklingError, ValueError, EOFError, AttributeError, IndexError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{file} is not an .npy file of plain dictionaries ({reason[:200]}); download it again, or write JSON lines"
        ) from error


def _read(stream: BinaryIO, size: int) -> list[Any]:
    if size > _MAX_BYTES:
        raise ValueError(f"{size} bytes are more than {_MAX_BYTES}")
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    _, _, dtype = read_header(stream)
    if not dtype.hasobject:
        raise ValueError(f"it holds numbers or texts of type {dtype}, not objects")
    content = stream.read()
    _check_numbers_of_memo(content)
    array = _Unpickler(content).load()
    if not isinstance(array, _Array) or not isinstance(array.content, list):
        raise ValueError("it holds no array of objects")
    return array.content


def _check_numbers_of_memo(content: bytes) -> None:
    """Refuse an entry number that would make the unpickler allocate a table of that size."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name.endswith("PUT") and int(argument or 0) > len(content):
            raise pickle.UnpicklingError(f"{opcode.name} {argument} is out of range")


class _Array:
    """Stands for a numpy array; ``content`` is the list of its objects, or its numbers."""

    content: Any = None

    def __setstate__(self, state: Any) -> None:
        _, _, dtype, _, content = state
        self.content = content if isinstance(content, list) else _numbers(dtype, content)


class _Dtype:
    """Stands for a numpy type."""

    def __init__(self, name: str, *further: object):
        self.name = name
        self.is_big_endian = False

    def __setstate__(self, state: Any) -> None:
        self.is_big_endian = state[1] == ">"


def _numbers(dtype: Any, content: Any) -> list[Any]:
    if not isinstance(dtype, _Dtype) or dtype.name not in _NUMBERS or not isinstance(content, bytes):
        raise pickle.UnpicklingError("an array holds neither objects nor numbers")
    values: list[Any] = np.frombuffer(content, (">" if dtype.is_big_endian else "<") + dtype.name).tolist()
    return values


def _scalar(dtype: Any, content: Any) -> Any:
    return _numbers(dtype, content)[0]


def _encode(text: str, encoding: str) -> bytes:
    """Stand for the function by which older pickles write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are written as {encoding!r}")
    return text.encode("latin1")


def _new_array(*arguments: object) -> _Array:
    return _Array()


class _Unpickler(pickle.Unpickler):
    """Replaces numpy's names by inert ones and refuses all others."""

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content))

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            module = "multiarray"
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which a file of captions does not need")
        return _NAMES[module, name]


_NAMES: dict[tuple[str, str], Any] = {
    ("multiarray", "_reconstruct"): _new_array,
    ("multiarray", "scalar"): _scalar,
    ("numpy", "ndarray"): "ndarray",
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _Dtype,
}
