"""Reading the weights of a CLIP model from whatever file they are in."""

import json
import zipfile
from pathlib import Path
from typing import NamedTuple

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from degla.errors import ConfigError

_PREFIXES = ("_orig_mod.", "module.", "model.", "student.", "clip.")
# Constants that OpenAI's TorchScript archives keep beside the weights, and a mask that is rebuilt.
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask", "text.attn_mask")


class Weights(NamedTuple):
    """A bare CLIP state dict and what its file tells about the model."""

    state: dict[str, Tensor]
    quick_gelu: bool | None  # None: the file does not say
    preprocess: dict | None = None  # open_clip's ``preprocess_cfg``; None: the file does not say


def read_settings(path: Path) -> dict:
    """The settings of the run that wrote a checkpoint of this project; ``{}`` of any other file."""
    if path.suffix == ".safetensors" or _is_torchscript(path):
        return {}
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception:
        return {}  # read_weights says why
    return dict(checkpoint.get("hyper_parameters") or {}) if isinstance(checkpoint, dict) else {}


def read_weights(path: Path, part: str = "student") -> Weights:
    """Read safetensors, a PyTorch file or an OpenAI TorchScript archive, without running pickled code.

    Accepts a bare state dict, ``{"state_dict": ...}`` or ``{"model": ...}``, a Lightning checkpoint of this
    project (its student), and names behind ``module.``, ``model.``, ``student.`` and the like.

    Args:
        path: the file.
        part: of a checkpoint of this project: ``student`` or ``teacher.model``.

    Raises:
        ConfigError: the file is not a weights file, or holds objects other than tensors and plain data.
    """
    recorded, preprocess = None, None
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
            with safetensors.safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                recorded, preprocess = (json.loads(metadata.get(key, "null")) for key in ("quick_gelu", "preprocess"))
        elif _is_torchscript(path):
            state = dict(torch.jit.load(path, map_location="cpu").state_dict())
            recorded = True  # only OpenAI publishes its weights in this form
        else:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            if isinstance(state, dict):
                recorded, preprocess = state.get("quick_gelu"), state.get("preprocess")
    except Exception as error:
        raise ConfigError(
            f"model.pretrained: {path} cannot be read as weights "
            f"({first_line(error)}); give a .safetensors file, or a .pt file "
            "that holds tensors only"
        ) from error
    state = _tensors(_strip(_inner(state, path), path, part), path)
    if recorded is None and _looks_like_openai(state):
        recorded = True
    return Weights(state, recorded, preprocess)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _inner(checkpoint: object, path: Path) -> dict:
    """The state dict inside a training checkpoint."""
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(key), dict):
            return checkpoint[key]
    if not isinstance(checkpoint, dict):
        raise ConfigError(f"model.pretrained: {path} holds a {type(checkpoint).__name__}, not a state dict")
    return checkpoint


def _strip(state: dict, path: Path, part: str) -> dict:
    """Remove wrappers' prefixes; of a checkpoint of this project keep one model."""
    if any(name.startswith("student.") for name in state):
        state = {name.removeprefix(f"{part}."): v for name, v in state.items() if name.startswith(f"{part}.")}
        if not state:
            raise ConfigError(f"{path} holds no {part}: the run had no teacher; set weights=student")
    while prefix := next((p for p in _PREFIXES if state and all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    if not any(name.startswith("visual.") for name in state):
        raise ConfigError(
            f"model.pretrained: {path} holds no CLIP weights (no 'visual.*' among {list(state)[:3]}...); "
            "give a checkpoint of open_clip, OpenAI CLIP or degla"
        )
    return state


def _tensors(state: dict, path: Path) -> dict[str, Tensor]:
    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise ConfigError(f"model.pretrained: {path} holds {odd[0]!r}, which is no tensor; give a plain state dict")
    return {name: value for name, value in state.items() if name not in _NOT_WEIGHTS}


def _looks_like_openai(state: dict[str, Tensor]) -> bool:
    """OpenAI's weights, converted or not, are all exact in float16, at the temperature's upper bound."""
    scale = state.get("logit_scale")
    if scale is None or abs(float(scale.float().exp()) - 100) > 0.1:
        return False
    floats = [value for value in state.values() if value.is_floating_point() and value.ndim >= 2]
    return all(torch.equal(value.half().float(), value.float()) for value in floats)


def first_line(error: Exception) -> str:
    """What an error says, short enough for a sentence of ours."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:200]
