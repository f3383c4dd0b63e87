"""Reading the folders that ``transformers.CLIPModel.save_pretrained`` writes.

Transformers need not be installed. Only JSON and weights are read, so no code of a folder runs.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from degla.errors import CheckpointError, ConfigError
from degla.models.checkpoints import read_state
from degla.models.hf_layout import RESAMPLE, config_from_hf, state_from_hf, vocabulary_of_hf

# The files that are read, for downloads; the last is needed only where there are no safetensors.
FILES = ("config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json",
         "preprocessor_config.json", "processor_config.json", "tokenizer.json", "vocab.json")  # fmt: skip
PICKLED_WEIGHTS = "pytorch_model.bin"
_MEAN, _STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]  # CLIP's


class HFModel(NamedTuple):
    """A ``CLIPModel`` in open_clip's terms."""

    config: dict[str, Any]  # ``model_cfg``
    preprocess: dict[str, Any]  # part of ``preprocess_cfg``
    state: dict[str, Tensor]


def is_hf_folder(folder: Path) -> bool:
    """Return whether a folder is in the layout of transformers and not also in that of open_clip."""
    return (folder / "config.json").is_file() and not (folder / "open_clip_config.json").is_file()


def read_hf(folder: Path, with_weights: bool = True) -> HFModel:
    """Read a folder that ``transformers.CLIPModel.save_pretrained`` wrote.

    Args:
        folder: with ``config.json``, weights, and usually tokenizer and image processor.
        with_weights: False leaves ``state`` empty, for a model whose weights come from another file.

    Raises:
        ConfigError: it is another kind of model, or has another vocabulary than CLIP's.
        CheckpointError: a file is missing or damaged.
    """
    settings = _json(folder / "config.json")
    if settings.get("model_type") != "clip":
        raise ConfigError(
            f"model.pretrained: {folder} is a {settings.get('model_type')} model of transformers; only its CLIPModel "
            "(model_type clip) and folders of open_clip can be read"
        )
    config = config_from_hf(settings, str(folder))
    _refuse_other_vocabularies(folder, config["text_cfg"]["vocab_size"])
    state = state_from_hf(_weights(folder), str(folder)) if with_weights else {}
    return HFModel(config, _preprocess(folder), state)


def _weights(folder: Path) -> dict[str, Tensor]:
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        files = [folder / "model.safetensors"]
    elif index.is_file():
        names = {str(name) for name in (_json(index).get("weight_map") or {}).values()}
        files = [folder / Path(name).name for name in sorted(names)]
    else:
        files = [folder / PICKLED_WEIGHTS]
    state: dict[str, Tensor] = {}
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"model.pretrained: {folder} holds no {file.name}; download the weights too")
        state |= read_state(file)
    return state


def _preprocess(folder: Path) -> dict[str, Any]:
    """Return the part of open_clip's ``preprocess_cfg`` that the image processor's file decides."""
    settings: dict[str, Any] = {}
    if (folder / "preprocessor_config.json").is_file():
        settings = _json(folder / "preprocessor_config.json")
    elif (folder / "processor_config.json").is_file():
        settings = _json(folder / "processor_config.json").get("image_processor") or {}
    numbers = {number: name for name, number in RESAMPLE.items()}
    size = settings.get("size", {})
    squash = isinstance(size, dict) and "height" in size and not settings.get("do_center_crop", True)
    return {
        "mean": settings.get("image_mean", _MEAN),
        "std": settings.get("image_std", _STD),
        "interpolation": numbers.get(settings.get("resample", 3), settings.get("resample")),
        "resize_mode": "squash" if squash else "shortest",
    }


def _refuse_other_vocabularies(folder: Path, size: int) -> None:
    """Refuse a vocabulary that is not CLIP's, because the token ids would stand for other words."""
    vocabulary: Any = None
    if (folder / "tokenizer.json").is_file():
        vocabulary = (_json(folder / "tokenizer.json").get("model") or {}).get("vocab")
    elif (folder / "vocab.json").is_file():
        vocabulary = _json(folder / "vocab.json")
    own = vocabulary_of_hf(SimpleTokenizer())
    if size != len(own) or (vocabulary is not None and vocabulary != own):
        raise ConfigError(
            f"model.pretrained: {folder} has a vocabulary of {size} tokens that is not CLIP's; export the model with "
            "to=open_clip"
        )


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"model.pretrained: {file} cannot be read as JSON ({error}); download it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"model.pretrained: {file} holds a {type(content).__name__}; download it again")
    return content
