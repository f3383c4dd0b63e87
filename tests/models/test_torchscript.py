"""TorchScript archives: OpenAI's layout is read, and no code in an archive runs."""

import io
import pickle
import shutil
import sys
import types
import zipfile
from collections import OrderedDict
from typing import NamedTuple

import open_clip
import pytest
import torch
from open_clip.model import convert_weights_to_fp16
from torch import nn

from degla.errors import CheckpointError
from degla.models import load_clip, save_open_clip
from degla.models.checkpoints import read_settings, read_weights
from degla.models.torchscript import is_torchscript, read_torchscript

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated; OpenAI's files are not


class OpenAI(nn.Module):
    """The layout that OpenAI published: the weights under CLIP's names, beside three constants."""

    def __init__(self, clip):
        super().__init__()
        for name, module in clip.named_children():
            self.add_module(name, module)
        for name, parameter in clip.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, value in {"input_resolution": 64, "context_length": 77, "vocab_size": 49408}.items():
            self.register_buffer(name, torch.tensor(value))

    def forward(self, image):
        return image * 2


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A model in half precision, but for its layer norms, as OpenAI's are; and its archive."""
    torch.manual_seed(0)
    clip = open_clip.create_model("degla-tiny", force_quick_gelu=True).eval()
    convert_weights_to_fp16(clip)
    path = tmp_path_factory.mktemp("openai") / "ViT-B-32.pt"
    torch.jit.trace(OpenAI(clip), torch.zeros(1, 3, 64, 64)).save(str(path))
    return clip, path


def test_openais_layout(archive):
    clip, path = archive
    expected = torch.jit.load(str(path)).state_dict()
    state = read_torchscript(path)
    assert state.keys() == expected.keys() and {value.dtype for value in state.values()} == {
        torch.float16, torch.float32, torch.int64
    }  # fmt: skip
    for name, value in expected.items():
        assert torch.equal(state[name], value) and state[name].dtype == value.dtype, name
    weights = read_weights(path)
    assert weights.quick_gelu is True and weights.state.keys() == clip.state_dict().keys()
    loaded = load_clip("degla-tiny", str(path))
    assert torch.equal(loaded.clip.visual.proj, clip.visual.proj.float()) and read_settings(path) == {}


class Unusual(nn.Module):
    """Views, shared and empty tensors, typed lists, and a tensor that is no weight."""

    def __init__(self, tied):
        super().__init__()
        self.view = nn.Parameter(torch.randn(6, 4)[::2].T)
        if tied:
            self.again = self.view
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.constant = torch.ones(2)
        self.names, self.sizes = ["a", "b"], [1, 2]
        self.inner = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize("how", ["script", "trace"])
def test_the_state_dict_is_the_one_of_torch(tmp_path, how):
    module = Unusual(tied=how == "script").eval()  # tracing refuses tied weights
    scripted = torch.jit.script(module) if how == "script" else torch.jit.trace(module, torch.zeros(2, 4))
    scripted.save(str(tmp_path / "unusual.pt"))
    expected, state = scripted.state_dict(), read_torchscript(tmp_path / "unusual.pt")
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(state[name], value) and state[name].stride() == value.stride(), name


def hostile_archive(path, target):
    """An archive that writes to ``target`` where its code runs."""

    class Hostile(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))
            self.target = str(target)

        def forward(self, x):
            return x

        @torch.jit.export
        def __getstate__(self):
            return (self.weight, self.training, self.target)

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, bool, str]):
            written = torch.from_file(state[2], shared=True, size=4, dtype=torch.uint8)
            written.fill_(65)
            self.weight = state[0] * written[0]  # read, so that the write is not optimised away
            self.training = state[1]
            self.target = state[2]

    class Clip(nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = Hostile()

        def forward(self, x):
            return self.visual(x)

    torch.jit.script(Clip()).save(str(path))
    target.unlink(missing_ok=True)
    return path


def test_no_code_of_an_archive_runs(archive, tmp_path):
    target = tmp_path / "written"
    path = hostile_archive(tmp_path / "hostile.pt", target)
    torch.jit.load(str(path))
    assert target.read_bytes() == b"AAAA"  # so torch.jit.load does run its code
    target.unlink()
    folder = save_open_clip(load_clip("degla-tiny"), tmp_path / "folder")
    (folder / "open_clip_model.safetensors").unlink()
    shutil.copy(path, folder / "open_clip_pytorch_model.bin")
    for arguments in (["degla-tiny", str(path)], ["ViT-B-32", str(folder)], [f"local-dir:{folder}"]):
        with pytest.raises(CheckpointError, match="code of its own, which is not run"):
            load_clip(*arguments)
    assert read_settings(path) == {} and not target.exists()


def rewritten(path, out, **records):
    """A copy of an archive with other records."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            name = info.filename.partition("/")[2]
            new.writestr(info.filename, records.pop(name.replace(".", "_").replace("/", "_"), old.read(info)))
    return out


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_nothing_else_can_be_unpickled(archive, tmp_path):
    target = tmp_path / "written"
    for function, arguments in (
        (eval, (f"open({str(target)!r}, 'w')",)),
        (torch.from_file, (str(target), True, 4)),
        (torch.jit.load, (str(tmp_path / "other.pt"),)),
        (getattr, ([], "append")),
        (None, b"\x80\x02}r\xff\xff\xff\x7f."),  # a table of 2^31 objects
        (None, b"\x80\x02(i__torch__\nM\n."),  # an instruction of pickle's first protocol
    ):
        content = pickle.dumps(Call(function, *arguments), 2) if function else arguments
        path = rewritten(archive[1], tmp_path / "evil.pt", data_pkl=content)
        assert is_torchscript(path)
        with pytest.raises(CheckpointError, match="is not part of an archive of weights"):
            read_weights(path)
    assert not target.exists()


class Stored(NamedTuple):
    """Pickles as the description of a storage."""

    description: tuple


class Writer(pickle._Pickler):
    def persistent_id(self, value):
        return value.description if isinstance(value, Stored) else None


MINE = ("storage", torch.FloatStorage, "mine", "cpu", 2)


@pytest.mark.parametrize(
    ("storage", "size", "stride", "message"),
    [
        (MINE, (2,), (1,), None),
        (("storage", torch.FloatStorage, "mine", "cpu", 2**40), (2,), (1,), "bytes, not"),
        (("storage", torch.FloatStorage, "../../x", "cpu", 2), (2,), (1,), "has no data"),
        (MINE, (2**40,), (0,), "larger than its storage"),
        (MINE, (2,), (2**40,), "out of bounds"),
        (MINE, (2,), (-1,), "Negative strides"),
        (("weights", *MINE[1:]), (2,), (1,), "the description that torch writes"),
    ],
)
def test_inconsistent_storages_and_shapes_are_refused(archive, tmp_path, monkeypatch, storage, size, stride, message):
    script = types.ModuleType("__torch__")
    script.M = type("M", (), {"__module__": "__torch__"})
    monkeypatch.setitem(sys.modules, "__torch__", script)
    module, file = script.M(), io.BytesIO()
    module.proj = Call(torch._utils._rebuild_tensor_v2, Stored(storage), 0, size, stride, False, OrderedDict())
    Writer(file, 2).dump(module)
    path = rewritten(archive[1], tmp_path / "lies.pt", data_pkl=file.getvalue())
    with zipfile.ZipFile(path, "a") as changed:
        changed.writestr("ViT-B-32/data/mine", b"\0" * 8)
    if message is None:
        assert read_torchscript(path)["proj"].tolist() == [0, 0]
    else:
        with pytest.raises(CheckpointError, match=message):
            read_weights(path)


def test_a_damaged_archive(archive, tmp_path):
    content = bytearray(archive[1].read_bytes())
    with zipfile.ZipFile(archive[1]) as file:
        info = max(file.infolist(), key=lambda info: info.file_size)
    content[info.header_offset + info.file_size // 2] ^= 1
    (tmp_path / "damaged.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="Bad CRC-32"):
        read_weights(tmp_path / "damaged.pt")
