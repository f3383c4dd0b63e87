"""Reading the weights of a CLIP model from a file, without running anything that is in the file."""

import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from degla.errors import CheckpointError
from degla.models.lora_state import holds_lora, merge_lora
from degla.models.torchscript import is_torchscript, read_torchscript

_PREFIXES = ("_orig_mod.", "module.", "model.", "student.", "clip.")
# Constants that OpenAI's TorchScript archives keep beside the weights, and a mask that is rebuilt.
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask", "text.attn_mask")


class Weights(NamedTuple):
    """The state dict of a CLIP model and what its file records about the model."""

    state: dict[str, Tensor]
    quick_gelu: bool | None  # None where the file does not record it
    preprocess: dict[str, Any] | None = None  # open_clip's ``preprocess_cfg``; None where the file does not record it


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings of the run that wrote a checkpoint of this project, or ``{}`` for any other file."""
    if path.suffix == ".safetensors" or is_torchscript(path):
        return {}
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception:
        return {}  # read_weights reports what is wrong with the file
    return dict(checkpoint.get("hyper_parameters") or {}) if isinstance(checkpoint, dict) else {}


def read_weights(path: Path, part: str = "student") -> Weights:
    """Read safetensors, a PyTorch file or an OpenAI TorchScript archive, without running pickled code.

    The file may hold a bare state dict, ``{"state_dict": ...}`` or ``{"model": ...}``, or be a Lightning checkpoint of
    this project. Prefixes of names such as ``module.``, ``model.`` and ``student.`` are removed. The adapters of a run
    with a LoRA are merged into its weights.

    Args:
        path: the file.
        part: which model of a checkpoint of this project: ``student`` or ``teacher.model``.

    Raises:
        CheckpointError: the file is damaged, is not a file of CLIP weights, or holds objects other than tensors and
            plain data.
    """
    content, quick_gelu, preprocess = _read(path)
    if not isinstance(quick_gelu, bool | None) or not isinstance(preprocess, dict | None):
        raise CheckpointError(
            f"model.pretrained: {path} records quick_gelu={quick_gelu!r} and preprocess={preprocess!r}; "
            "they must be true or false, and a mapping"
        )
    state = _only_tensors(_without_prefixes(_inner_state(content, path), path, part), path)
    if holds_lora(state):
        state = merge_lora(state, _scaling(content, path))
    if quick_gelu is None and _looks_like_openai(state):
        quick_gelu = True
    return Weights(state, quick_gelu, preprocess)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict of any model, under the names of the file, without running pickled code.

    Args:
        path: safetensors, or a PyTorch file.

    Raises:
        CheckpointError: the file is damaged or holds objects other than tensors.
    """
    content, _, _ = _read(path)
    return _only_tensors(_inner_state(content, path), path)


def read_adapter(path: Path, part: str = "student") -> dict[str, Tensor]:
    """Read the matrices of the adapter of a run with a LoRA, under the names of the checkpoint's model.

    Args:
        path: a checkpoint of this project.
        part: as for ``read_weights``.

    Returns:
        ``{}`` where the model has no adapter.

    Raises:
        CheckpointError: the file is damaged, or is not a checkpoint of this project.
    """
    content, _, _ = _read(path)
    state = _only_tensors(_without_prefixes(_inner_state(content, path), path, part), path)
    return {name: value for name, value in state.items() if ".lora_" in name}


def first_line(error: Exception) -> str:
    """Return the type and the first line of an error, at most 200 characters, for use inside a message of ours."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:200]


def _read(path: Path) -> tuple[Any, Any, Any]:
    """Return the content of a file of weights, and the activation and preprocessing that it records."""
    quick_gelu, preprocess = None, None
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
            quick_gelu, preprocess = _safetensors_metadata(path)
        elif is_torchscript(path):
            content = read_torchscript(path)
            quick_gelu = True  # only OpenAI publishes its weights in this form
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            if isinstance(content, dict):
                quick_gelu, preprocess = content.get("quick_gelu"), content.get("preprocess")
    except Exception as error:
        raise CheckpointError(
            f"model.pretrained: {path} cannot be read as weights ({first_line(error)}); give a .safetensors file, or a "
            ".pt file that holds tensors only"
        ) from error
    return content, quick_gelu, preprocess


def _scaling(content: Any, path: Path) -> float:
    """Return the factor of the adapters in a checkpoint of this project."""
    settings = (content.get("hyper_parameters") or {}).get("adapter") or {}
    try:
        return float(settings["alpha"]) / int(settings["rank"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"model.pretrained: {path} holds a LoRA but not its rank and alpha: give a checkpoint of a run, or merge "
            "the adapter into the weights first"
        ) from error


def _safetensors_metadata(path: Path) -> tuple[Any, Any]:
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    return json.loads(metadata.get("quick_gelu", "null")), json.loads(metadata.get("preprocess", "null"))


def _inner_state(content: Any, path: Path) -> dict[str, Any]:
    """Return the state dict inside a training checkpoint."""
    if not isinstance(content, dict):
        raise CheckpointError(
            f"model.pretrained: {path} holds a {type(content).__name__}, not a state dict; give a file of weights"
        )
    for key in ("state_dict", "model", "model_state_dict"):
        inner = content.get(key)
        if isinstance(inner, dict):
            return inner
    return content


def _without_prefixes(state: dict[str, Any], path: Path, part: str) -> dict[str, Any]:
    """Remove the prefixes of wrappers, and keep one model of a checkpoint of this project."""
    if any(name.startswith("student.") for name in state):
        state = {name.removeprefix(f"{part}."): v for name, v in state.items() if name.startswith(f"{part}.")}
        if not state:
            raise CheckpointError(f"{path} holds no {part}, because the run had no teacher; set weights=student")
    while prefix := next((p for p in _PREFIXES if state and all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    if not any(name.startswith("visual.") for name in state):
        raise CheckpointError(
            f"model.pretrained: {path} holds no CLIP weights (no 'visual.*' among {list(state)[:3]}...); "
            "give a checkpoint of open_clip, OpenAI CLIP or degla"
        )
    return state


def _only_tensors(state: dict[str, Any], path: Path) -> dict[str, Tensor]:
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"model.pretrained: {path} holds {name!r}, which is not a tensor but a {type(value).__name__}; "
                "give a plain state dict"
            )
    return {name: value for name, value in state.items() if name not in _NOT_WEIGHTS}


def _looks_like_openai(state: dict[str, Tensor]) -> bool:
    """Return whether the weights look like OpenAI's, converted or not.

    Those were published in float16, so every value is exact in it, with the multiplier at its upper bound of 100.
    """
    scale = state.get("logit_scale")
    if scale is None or abs(float(scale.float().exp()) - 100) > 0.1:
        return False
    matrices = [value for value in state.values() if value.is_floating_point() and value.ndim >= 2]
    return all(torch.equal(value.half().float(), value.float()) for value in matrices)
