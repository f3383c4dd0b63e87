"""Build a CLIP model by its open_clip name, with weights from a tag, a file or a folder."""

import contextlib
import copy
import difflib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
from open_clip.convert import convert_state_dict
from open_clip.factory import HF_HUB_PREFIX, LOCAL_DIR_PREFIX, get_model_config
from open_clip.model import (
    CLIP,
    CustomTextCLIP,
    convert_to_custom_text_state_dict,
    resize_pos_embed,
    resize_text_pos_embed,
)
from open_clip.pretrained import download_pretrained, download_pretrained_from_hf, get_pretrained_cfg
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

from degla.compat.open_clip import find_weights
from degla.errors import CheckpointError, ConfigError
from degla.hub import reachable_hub
from degla.models.blocks import swap_block_classes_
from degla.models.checkpoints import Weights, first_line, read_weights
from degla.models.clip import ClipModel
from degla.models.text import is_causal, pooled_token
from degla.models.tokenizer import CaptionTokenizer

_ARCHITECTURES = Path(__file__).parent / "architectures"
_BUNDLED = Path(__file__).parent / "pretrained"  # <name>/<tag>.safetensors, weights that come with the package
# Settings of open_clip's tokenizers that run no code of a model's folder.
_TOKENIZER_SETTINGS = {"additional_special_tokens", "bpe_path", "clean", "language", "lower", "reduction_mask",
                       "strip_sep_token"}  # fmt: skip

open_clip.add_model_config(_ARCHITECTURES)

log = logging.getLogger(__name__)


def load_clip(
    name: str = "ViT-B-32",
    pretrained: str | None = None,
    quick_gelu: bool | None = None,
    unlocked_image_groups: int | None = None,
    unlocked_text_groups: int | None = None,
    grad_checkpointing: bool = False,
    cache_dir: str | None = None,
    part: str = "student",
) -> ClipModel:
    """Build an open_clip model and load its weights.

    Args:
        name: open_clip architecture, ``hf-hub:org/repo``, or ``local-dir:/folder``.
        pretrained: open_clip tag, tag of weights that come with degla, file, or folder in open_clip's ``local-dir:``
            layout. None takes the weights that an ``hf-hub:`` or ``local-dir:`` name includes, and random weights
            for other names.
        quick_gelu: whether the weights were trained with QuickGELU. None takes what the tag, folder or file
            records, and is an error where nothing is recorded.
        unlocked_image_groups: None trains the whole image tower, 0 freezes it, n trains its last n groups
            (projection, last block, ..., as open_clip counts them).
        unlocked_text_groups: None trains the whole text tower, 0 freezes it, n trains its last n groups.
        grad_checkpointing: recompute activations in the backward pass to save memory.
        cache_dir: folder for downloads; None is the Hugging Face default.
        part: which model of a checkpoint of this project: ``student`` or ``teacher.model``.

    Returns:
        The model in float32 on the CPU. Weights load strictly.

    Raises:
        ConfigError: the name or tag is unknown, the activation contradicts the weights, or the config would run code
            of the model's folder.
        CheckpointError: the weights cannot be read or do not fit the architecture.
    """
    source = _find_weights(name, pretrained, cache_dir, part)
    config = _architecture(source.name)
    _refuse_programs(source.name, config)
    always_quick_gelu = config.get("quick_gelu", False)
    config["quick_gelu"] = _activation(quick_gelu, source, config)
    if always_quick_gelu and not config["quick_gelu"]:  # open_clip has no option to build GELU here
        raise ConfigError(
            f"model.name={source.name} always builds QuickGELU, which {source.origin} was not trained with"
        )
    clip = _build(source, config)
    if source.weights is None:
        log.warning("model.pretrained is not set: the model starts from random weights")
    else:
        _load(clip, source.weights, source)
    _freeze(clip, unlocked_image_groups, unlocked_text_groups)
    clip.set_grad_checkpointing(grad_checkpointing)
    context_length = clip.context_length
    causal = is_causal(clip)
    eos_id = pooled_token(clip) if causal else None
    merges = _own_merges(source.name, config)
    of_transformers = bool(config["text_cfg"].get("hf_tokenizer_name"))
    tokenize = _tokenizer(source.name, context_length, merges, of_transformers)
    tokenizer = CaptionTokenizer(tokenize, context_length, causal, eos_id)
    return ClipModel(clip, config, clip.visual.preprocess_cfg, tokenizer, merges)


def resolve_architecture(name: str, pretrained: str | None) -> str:
    """Return the name to build by: a folder that is given as weights decides the architecture too.

    Args:
        name: as for ``load_clip``.
        pretrained: as for ``load_clip``.

    Returns:
        ``local-dir:<folder>``, or ``name`` where ``pretrained`` is not a folder.
    """
    folder = (pretrained or "").removeprefix(LOCAL_DIR_PREFIX)
    return LOCAL_DIR_PREFIX + folder if folder and Path(folder).is_dir() else name


def has_bundled_weights(name: str) -> bool:
    """Return whether a name stands for weights too, as ``hf-hub:`` and ``local-dir:`` names do."""
    return name.startswith((LOCAL_DIR_PREFIX, HF_HUB_PREFIX))


class _Source(NamedTuple):
    """The origin of architecture and weights, and what is recorded about the weights."""

    name: str
    weights: Weights | None
    origin: str  # for messages
    quick_gelu: bool | None
    preprocess: dict[str, Any]


def _find_weights(name: str, pretrained: str | None, cache_dir: str | None, part: str) -> _Source:
    if (folder := resolve_architecture(name, pretrained)) != name:
        name, pretrained = folder, None
    if has_bundled_weights(name):
        if not pretrained:
            return _from_repository(name, cache_dir)
        if not Path(pretrained).is_file():
            raise ConfigError(
                f"model.name={name} has weights of its own: set model.pretrained=null, or to a file of weights for it"
            )
    if pretrained is None:
        return _Source(name, None, "random weights", None, {})
    if Path(pretrained).is_file():
        weights = read_weights(Path(pretrained), part)
        return _Source(name, weights, pretrained, weights.quick_gelu, weights.preprocess or {})
    bundled = _BUNDLED / name / f"{pretrained}.safetensors"
    if bundled.is_file():
        weights = read_weights(bundled)
        return _Source(name, weights, f"{name}/{pretrained}", weights.quick_gelu, {})
    return _from_tag(name, pretrained, cache_dir)


def _from_repository(name: str, cache_dir: str | None) -> _Source:
    """Read a folder, or a repository of the hub, with ``open_clip_config.json`` beside the weights."""
    path: Path | None
    try:
        if name.startswith(HF_HUB_PREFIX):
            with reachable_hub():
                path = Path(download_pretrained_from_hf(name.removeprefix(HF_HUB_PREFIX), cache_dir=cache_dir))
        else:
            path = find_weights(Path(name.removeprefix(LOCAL_DIR_PREFIX)))
        recorded = bool((get_model_config(name) or {}).get("quick_gelu", False))
    except Exception as error:
        raise ConfigError(f"model.name: {name} cannot be loaded ({first_line(error)})") from error
    if path is None:
        raise ConfigError(f"model.name: {name} holds no weights; put open_clip_model.safetensors there")
    return _Source(name, read_weights(path), name, recorded, {})


def _from_tag(name: str, tag: str, cache_dir: str | None) -> _Source:
    _architecture(name)  # an unknown name is the likelier mistake, so it is reported first
    config = get_pretrained_cfg(name, tag)
    if not config:
        tags = open_clip.list_pretrained_tags_by_model(name)
        tags += sorted(path.stem for path in (_BUNDLED / name).glob("*.safetensors"))
        raise ConfigError(
            f"model.pretrained={tag} is neither a file, nor a folder, nor a tag of {name} "
            f"(its tags: {', '.join(tags) or 'none'})"
        )
    try:
        with reachable_hub():
            path = Path(download_pretrained(config, cache_dir=cache_dir))
    except Exception as error:
        page = f"https://huggingface.co/{config['hf_hub'].strip('/')}" if config.get("hf_hub") else config["url"]
        raise ConfigError(
            f"the weights {name}/{tag} could not be downloaded ({first_line(error)}): fetch them from {page} "
            "on a machine with internet and set model.pretrained=/path/to/the/file"
        ) from error
    return _Source(name, read_weights(path), f"{name}/{tag}", bool(config.get("quick_gelu", False)), config)


def _architecture(name: str) -> dict[str, Any]:
    config: dict[str, Any] | None = get_model_config(name)
    if config is None:
        close = difflib.get_close_matches(name, open_clip.list_models(), n=3, cutoff=0.3)
        raise ConfigError(f"model.name={name} is unknown to open_clip; did you mean {' or '.join(close)}?")
    return copy.deepcopy(config)


def _activation(declared: bool | None, source: _Source, config: dict[str, Any]) -> bool:
    """Return whether to build QuickGELU. Doubt is an error, because the wrong activation silently lowers accuracy."""
    by_name = True if source.name.endswith("-quickgelu") else None
    recorded = source.quick_gelu if source.quick_gelu is not None else by_name
    if declared is None and recorded is None and source.weights is not None:
        raise ConfigError(
            f"{source.origin} does not say which activation it was trained with: set model.quick_gelu=true for "
            "OpenAI's weights and what was fine-tuned from them, false for LAION's and DataComp's"
        )
    if declared is not None and recorded is not None and declared != recorded:
        raise ConfigError(
            f"model.quick_gelu={str(declared).lower()} contradicts {source.origin}: "
            f"set model.quick_gelu={str(recorded).lower()}"
        )
    if declared is not None:
        return declared
    return recorded if recorded is not None else bool(config.get("quick_gelu", False))


def _refuse_programs(name: str, config: dict[str, Any]) -> None:
    """Refuse tokenizer settings that are not open_clip's: transformers would get them, and some run code."""
    unknown = set((config.get("text_cfg") or {}).get("tokenizer_kwargs") or {}) - _TOKENIZER_SETTINGS
    if unknown:
        names = ", ".join(sorted(unknown))
        raise ConfigError(f"model.name: {name} sets {names} for its tokenizer, which is not allowed; remove it there")


def _build(source: _Source, config: dict[str, Any]) -> CLIP | CustomTextCLIP:
    if "multimodal_cfg" in config:
        raise ConfigError(f"model.name={source.name} is a CoCa model; DeGLA trains dual encoders without a decoder")
    with _quiet(), reachable_hub():
        clip = open_clip.create_model(
            source.name,
            load_weights=False,
            force_quick_gelu=config["quick_gelu"],
            force_preprocess_cfg=source.preprocess,
            pretrained_text=False,
            nonscalar_logit_scale=True,  # FSDP2 cannot shard a scalar
        )
    if not isinstance(clip, CLIP | CustomTextCLIP):
        raise ConfigError(f"model.name={source.name} is a {type(clip).__name__}, not a CLIP model")
    swap_block_classes_(clip)
    if clip.logit_bias is not None:
        clip.logit_bias.requires_grad_(False)  # a softmax does not depend on SigLIP's bias
    return clip


def _load(clip: CLIP | CustomTextCLIP, weights: Weights, source: _Source) -> None:
    state = convert_state_dict(clip, dict(weights.state))
    if "positional_embedding" in state and not hasattr(clip, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for name in ("logit_scale", "logit_bias"):
        if name in state and getattr(clip, name) is not None:
            state[name] = state[name].reshape(getattr(clip, name).shape)
    try:
        resize_pos_embed(state, clip)
        resize_text_pos_embed(state, clip)
        clip.load_state_dict(state, strict=True)
    except (RuntimeError, KeyError, AssertionError) as error:
        lines = str(error).splitlines()
        details = "; ".join(line.strip() for line in lines[1:3] or lines)[:300]
        raise CheckpointError(f"{source.origin} does not fit model.name={source.name}: {details}") from error


def _freeze(clip: CLIP | CustomTextCLIP, image_groups: int | None, text_layers: int | None) -> None:
    try:
        if image_groups is not None:
            clip.lock_image_tower(unlocked_groups=image_groups, freeze_bn_stats=True)
        if text_layers is not None:
            clip.lock_text_tower(unlocked_layers=text_layers)
    except AssertionError as error:
        raise ConfigError(
            f"model.unlocked_image_groups: this image tower can only be frozen whole (0) or not at all (null): {error}"
        ) from error


def _own_merges(name: str, config: dict[str, Any]) -> Path | None:
    """Return the file of byte-pair merges of a model that does not use CLIP's; it lies beside the model's config."""
    file: str | None = (config["text_cfg"].get("tokenizer_kwargs") or {}).get("bpe_path")
    if file is None:
        return None
    folder = Path(name.removeprefix(LOCAL_DIR_PREFIX)) if name.startswith(LOCAL_DIR_PREFIX) else _ARCHITECTURES
    if not (folder / file).is_file():
        raise ConfigError(f"model.name: {name} reads text by {file}, which is not in {folder}; copy it there")
    return folder / file


def _tokenizer(
    name: str, context_length: int, merges: Path | None, of_transformers: bool
) -> SimpleTokenizer | HFTokenizer:
    settings: dict[str, Any] = {}
    if merges:
        settings["bpe_path"] = str(merges)
    elif of_transformers:
        settings["trust_remote_code"] = False
    try:
        with _quiet(), reachable_hub():
            return open_clip.get_tokenizer(name, context_length=context_length, **settings)
    except ImportError as error:
        raise ConfigError(
            f"model.name={name} needs a Hugging Face tokenizer: pip install 'degla[hf]' ({first_line(error)})"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the tokenizer of model.name={name} is not on this machine and could not be downloaded or read "
            f"({first_line(error)}): run once with internet access, or set model.pretrained to a folder that holds it"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence open_clip, which reports each step of a construction on the root logger."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)
