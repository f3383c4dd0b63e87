"""Resolve what a user wrote for a model: an option of the configs, a folder, a file, or an open_clip name."""

import difflib
from pathlib import Path
from typing import Any

from degla.artifacts import checkpoint_error, newest_checkpoint
from degla.cli.keys import options_of
from degla.errors import CheckpointError, ConfigError
from degla.models.checkpoints import read_settings
from degla.models.hf_folder import is_hf_folder

_CONFIG_NAME = "open_clip_config.json"
_REMOTE = ("hf-hub:", "hf://", "local-dir:")


def model_values(model: str | Path, architecture: str | None = None) -> dict[str, Any]:
    """Return the ``model`` keys for what a user wrote.

    Args:
        model: an option of ``configs/model``, the folder of a run or of a model, a checkpoint, a file of weights, an
            ``hf-hub:`` or ``hf://`` name, or an open_clip name with its tag, such as ``ViT-B-32/openai``.
        architecture: open_clip name for a file of weights that does not record it.

    Returns:
        ``{"option": ...}`` for an option, else arguments of ``load_clip``.

    Raises:
        ConfigError: no model of that name exists.
        CheckpointError: a checkpoint cannot be used.
    """
    text = str(model)
    path = Path(text).expanduser()
    if path.is_dir():
        return _of_folder(path)
    if path.is_file():
        return _of_file(path, architecture)
    if text in options_of("model"):
        return {"option": text}
    if text.startswith(_REMOTE):
        return {"name": text, "pretrained": None, "quick_gelu": None}
    name, _, tag = text.partition("/")
    if tag and not path.suffix and "/" not in tag and not text.startswith((".", "~")):
        return {"name": name, "pretrained": tag, "quick_gelu": None}
    close = difflib.get_close_matches(text, options_of("model"), n=1)
    hint = f"did you mean {close[0]}?" if close else f"the options are {', '.join(options_of('model'))}"
    raise ConfigError(
        f"model={text} is not a folder, a file or an option: {hint} (an open_clip name needs its tag, such "
        "as ViT-B-32/openai)"
    )


def _of_folder(folder: Path) -> dict[str, Any]:
    if (folder / _CONFIG_NAME).is_file() or is_hf_folder(folder):
        return {"name": f"local-dir:{folder}", "pretrained": None, "quick_gelu": None}
    if (folder / "model" / _CONFIG_NAME).is_file():
        return _of_folder(folder / "model")
    if newest := newest_checkpoint(folder / "checkpoints"):
        return _of_file(newest, None)
    raise ConfigError(
        f"model={folder} holds neither {_CONFIG_NAME} nor a transformers CLIPModel nor a run with model/ or "
        "checkpoints/step-*.ckpt: set it to a folder that does"
    )


def _of_file(path: Path, architecture: str | None) -> dict[str, Any]:
    if path.suffix == ".ckpt" and (reason := checkpoint_error(path)):
        raise CheckpointError(f"model={path}: {reason}")
    values = dict(read_settings(path).get("model") or {})
    values.pop("_target_", None)
    if architecture is not None:
        values["name"] = architecture
    if not values:
        raise ConfigError(
            f"model={path} does not record its architecture: set architecture to its open_clip name, such as ViT-B-32"
        )
    return {**values, "pretrained": str(path)}
