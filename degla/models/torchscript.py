"""The tensors of a TorchScript archive, read without running its code.

OpenAI published CLIP's weights in this form. ``torch.jit.load`` runs the archive's code: a module's ``__setstate__`` is
called, and ``torch.from_file(..., shared=True)`` in it writes any file. The weights themselves lie in a pickle,
``data.pkl``, and one record of bytes per storage. This module reads these with an unpickler that can build nothing but
tensors, plain data and inert objects in place of the modules.
"""

import math
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_MAX_PICKLE_BYTES = 2**26  # OpenAI's largest data.pkl has less than 1 MB
_MAX_CODE_BYTES = 2**24  # of one source file
_MAX_TENSORS = 100_000  # of a state dict; a few records can name each other exponentially often
_DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_TYPED_LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
# The instructions that torch's pickler writes, which are a third of pickle's.
_OPCODES = {
    *("PROTO", "STOP", "MARK", "GLOBAL", "NEWOBJ", "REDUCE", "BUILD", "BINPERSID", "BINPUT", "LONG_BINPUT", "BINGET"),
    *("LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM"),
    "SETITEMS",
}
# How TorchScript writes the names of a module's parameters and buffers into the source of its class.
_CLASS = re.compile(
    r"^class (?P<name>\w+)\(Module\):\n  __parameters__ = \[(?P<parameters>[^\]]*)\]\n"
    r"(?:  __buffers__ = \[(?P<buffers>[^\]]*)\]\n)?",
    re.MULTILINE,
)


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a zip archive with TorchScript code."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # no archive, or a damaged one
        return False


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Return the state dict of the module in a TorchScript archive, with tensors such as ``(D,)`` by their names.

    Args:
        path: a file for which ``is_torchscript`` is True.

    Raises:
        pickle.UnpicklingError: the archive needs more than its tensors to be restored, or is built otherwise than
            ``torch.jit.save`` builds archives.
        zipfile.BadZipFile: a record does not have the checksum that it was written with.
    """
    with zipfile.ZipFile(path) as archive:
        module = _Archive(archive, path.stat().st_size).module()
        state: dict[str, Tensor] = {}
        _collect(module, "", (), state)
        return state


class _Module:
    """An inert object in place of a module: it keeps the attributes and has no behaviour."""

    weights: frozenset[str] | None = None  # names of parameters and buffers; None where the code does not list them

    def __init__(self, *arguments: object) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise pickle.UnpicklingError(f"{type(self).__name__} is restored by code of its own, which is not run")
        self.attributes = state


class _Archive:
    """The records of one archive.

    Args:
        archive: the open file.
        max_bytes: of all storages together, so that records that overlap in the file cannot fill the memory.
    """

    def __init__(self, archive: zipfile.ZipFile, max_bytes: int):
        self.archive = archive
        self.bytes_left = max_bytes
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise pickle.UnpicklingError("a TorchScript archive has one data.pkl in one folder")
        self.folder = pickles[0].removesuffix("/data.pkl")
        self.storages: dict[tuple[str, torch.dtype], Tensor] = {}

    def module(self) -> _Module:
        """Unpickle the module, with inert objects in place of it and its children."""
        if (order := self._record("byteorder", 16, optional=True)) not in (b"", b"little"):
            raise pickle.UnpicklingError(f"byte order {order!r}; convert it on the machine that wrote it")
        content = self._record("data.pkl", _MAX_PICKLE_BYTES)
        _check_opcodes(content)
        root = _Unpickler(self, BytesIO(content)).load()
        if not isinstance(root, _Module):
            raise pickle.UnpicklingError(f"data.pkl holds a {type(root).__name__}, not a module")
        return root

    def storage(self, key: str, dtype: torch.dtype, size: int) -> Tensor:
        """Return ``(size,)`` elements of a storage."""
        if (key, dtype) not in self.storages:
            content = self._record(f"data/{key}", self.bytes_left)
            self.bytes_left -= len(content)
            if len(content) != size * dtype.itemsize:
                raise pickle.UnpicklingError(f"data/{key} has {len(content)} bytes, not {size} x {dtype}")
            flat = torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)
            self.storages[key, dtype] = flat
        return self.storages[key, dtype]

    def weight_names(self, module: str, name: str) -> frozenset[str] | None:
        """Return the names of a class's parameters and buffers, as its source lists them."""
        source = self._record(f"code/{module.replace('.', '/')}.py", _MAX_CODE_BYTES, optional=True)
        for definition in _CLASS.finditer(source.decode("utf-8", errors="replace")):
            if definition["name"] == name:
                listed = f"{definition['parameters']} {definition['buffers'] or ''}"
                return frozenset(re.findall(r'"([^"]+)"', listed))
        return None

    def _record(self, name: str, max_bytes: int, optional: bool = False) -> bytes:
        try:
            info = self.archive.getinfo(f"{self.folder}/{name}")
        except KeyError:
            if optional:
                return b""
            raise pickle.UnpicklingError(f"the archive has no {name}") from None
        if info.file_size > max_bytes:
            raise pickle.UnpicklingError(f"{name} has {info.file_size} bytes, which is more than an archive can hold")
        return self.archive.read(info)  # compares the checksum


class _Unpickler(pickle.Unpickler):
    """An unpickler that accepts only the few names in archives of weights, none of which runs code."""

    def __init__(self, archive: _Archive, file: BytesIO):
        super().__init__(file)
        self.archive = archive
        self.classes: dict[tuple[str, str], type[_Module]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return self._class(module, name)
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch.jit._pickle" and name in _TYPED_LISTS:
            return self._typed_list
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"{module}.{name} is not part of an archive of weights")

    def persistent_load(self, pid: Any) -> tuple[str, torch.dtype, int]:
        kind, dtype, key, _, size = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str) or type(size) is not int:
            raise pickle.UnpicklingError("a storage does not have the description that torch writes")
        return key, dtype, size

    def _class(self, module: str, name: str) -> type[_Module]:
        if (module, name) not in self.classes:
            weights = self.archive.weight_names(module, name)
            self.classes[module, name] = type(f"{module}.{name}", (_Module,), {"weights": weights})
        return self.classes[module, name]

    def _typed_list(self, value: object, *of_type: object) -> object:
        return value

    def _tensor(
        self,
        storage: tuple[str, torch.dtype, int],
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        *further: object,  # requires_grad and hooks
    ) -> Tensor:
        key, dtype, length = storage
        flat = self.archive.storage(key, dtype, length)
        if math.prod(size) > len(flat):
            raise pickle.UnpicklingError(f"a tensor of {tuple(size)} is larger than its storage of {len(flat)}")
        return flat.as_strided(size, stride, offset)  # checks the bounds


def _check_opcodes(content: bytes) -> None:
    """Refuse instructions that archives of weights do not have, and numbers that would make a huge table of objects."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name not in _OPCODES or (opcode.name.endswith("PUT") and int(argument or 0) > len(content)):
            raise pickle.UnpicklingError(f"{opcode.name} {argument} is not part of an archive of weights")


def _collect(module: _Module, prefix: str, parents: tuple[int, ...], state: dict[str, Tensor]) -> None:
    """Add the parameters and buffers of a module and of its children to ``state``."""
    if id(module) in parents:
        raise pickle.UnpicklingError(f"the module {prefix} contains itself")
    for name, value in module.attributes.items():
        if isinstance(value, _Module):
            _collect(value, f"{prefix}{name}.", (*parents, id(module)), state)
        elif isinstance(value, Tensor) and (module.weights is None or name in module.weights):
            if len(state) == _MAX_TENSORS:
                raise pickle.UnpicklingError(f"the archive has more than {_MAX_TENSORS} tensors")
            state[f"{prefix}{name}"] = value
