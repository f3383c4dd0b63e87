"""Writing a model so that plain open_clip loads it: ``create_model('local-dir:...')``."""

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

    Activation and preprocessing are recorded in both files, so that no reader has to guess them. Each file
    appears whole or not at all.

    Args:
        model: whose config and preprocessing are written.
        folder: is created.
        state: full weights where the model's own are sharded; None takes ``model``'s.

    Returns:
        ``folder``.
    """
    save_safetensors(model, folder, state)
    if hasattr(model.tokenizer.tokenize, "save_pretrained"):  # of transformers: open_clip looks for it in the folder
        model.tokenizer.tokenize.save_pretrained(folder)
    if model.merges and model.merges.resolve().parent != folder.resolve():
        shutil.copyfile(model.merges, folder / model.merges.name)
    content = {"model_cfg": model.config, "preprocess_cfg": model.preprocess}
    with atomic_write(folder / CONFIG_NAME) as partial:
        partial.write_text(json.dumps(content, indent=2), encoding="utf-8")
    return folder


def save_safetensors(model: ClipModel, folder: Path, state: dict[str, Tensor] | None = None) -> Path:
    """Write ``open_clip_model.safetensors`` alone; see ``save_open_clip``."""
    folder.mkdir(parents=True, exist_ok=True)
    state = model.clip.state_dict() if state is None else state
    state = {name: value.detach().float().cpu().contiguous() for name, value in state.items()}
    for name in ("logit_scale", "logit_bias"):
        if name in state:
            state[name] = state[name].reshape(())
    known = {"quick_gelu": model.config["quick_gelu"], "preprocess": dict(model.preprocess)}
    metadata = {"format": "pt"} | {key: json.dumps(value) for key, value in known.items()}
    with atomic_write(folder / WEIGHTS_NAME) as partial:
        save_file(state, partial, metadata=metadata)
    return folder
