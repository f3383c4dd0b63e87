"""Writing a model so that plain open_clip loads it with ``create_model('local-dir:...')``."""

import json
import shutil
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from degla.artifacts import atomic_write
from degla.models.clip import ClipModel

WEIGHTS_NAME = "open_clip_model.safetensors"
CONFIG_NAME = "open_clip_config.json"


def save_open_clip(model: ClipModel, folder: Path, state: dict[str, Tensor] | None = None) -> Path:
    """Write weights and config in open_clip's ``local-dir:`` layout.

    Both files record the activation and the preprocessing, so that no reader has to guess them. Each file is written
    atomically.

    Args:
        model: its config, preprocessing and tokenizer are written.
        folder: is created.
        state: full weights where the model's own are sharded; None takes those of ``model``. An adapter is merged.

    Returns:
        ``folder``.
    """
    save_safetensors(model, folder, state)
    tokenize = model.tokenizer.tokenize
    if hasattr(tokenize, "save_pretrained"):  # a tokenizer of transformers, which open_clip looks for in the folder
        tokenize.save_pretrained(folder)
    if model.merges and model.merges.resolve().parent != folder.resolve():
        shutil.copyfile(model.merges, folder / model.merges.name)
    content = {"model_cfg": model.config, "preprocess_cfg": model.preprocess}
    with atomic_write(folder / CONFIG_NAME) as partial:
        partial.write_text(json.dumps(content, indent=2), encoding="utf-8")
    return folder


def save_safetensors(model: ClipModel, folder: Path, state: dict[str, Tensor] | None = None) -> Path:
    """Write ``open_clip_model.safetensors`` alone.

    Args:
        model: its activation and preprocessing are recorded in the file.
        folder: is created.
        state: full weights where the model's own are sharded; None takes those of ``model``. An adapter is merged.

    Returns:
        ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {n: value.detach().float().cpu().contiguous() for n, value in model.open_clip_state(state).items()}
    for name in ("logit_scale", "logit_bias"):
        if name in tensors:
            tensors[name] = tensors[name].reshape(())
    recorded = {"quick_gelu": model.config["quick_gelu"], "preprocess": dict(model.preprocess)}
    metadata = {"format": "pt"} | {key: json.dumps(value) for key, value in recorded.items()}
    with atomic_write(folder / WEIGHTS_NAME) as partial:
        save_file(tensors, partial, metadata=metadata)
    return folder
