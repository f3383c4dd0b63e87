"""Build a CLIP model by its open_clip name, with weights from a tag, a file or a folder."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import open_clip
from open_clip.convert import convert_state_dict
from open_clip.model import (
    CLIP,
    CustomTextCLIP,
    convert_to_custom_text_state_dict,
    resize_pos_embed,
    resize_text_pos_embed,
    set_model_preprocess_cfg,
)
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transform import PreprocessCfg
from torch import nn

from degla.bounds import Bound, bounded, one_of, whole
from degla.errors import CheckpointError, ConfigError
from degla.hub import reachable_hub
from degla.models.blocks import swap_block_classes_
from degla.models.checkpoints import Weights, first_line
from degla.models.clip import ClipModel
from degla.models.context import check_context, set_context, stretch_context
from degla.models.source import Source, check_preprocess, find_source, has_bundled_weights, own_merges
from degla.models.text import is_causal, pooled_token
from degla.models.tokenizer import CaptionTokenizer

log = logging.getLogger(__name__)


_GROUPS = Bound(whole(0).allows, "0 (frozen) or a number of groups")
_ATTENTION = one_of(("groups", "tree"))


@bounded("model")
def load_clip(
    name: str = "ViT-B-32",
    pretrained: str | None = None,
    quick_gelu: bool | None = None,
    unlocked_image_groups: Annotated[int, _GROUPS] | None = None,
    unlocked_text_groups: Annotated[int, _GROUPS] | None = None,
    grad_checkpointing: bool = False,
    cache_dir: str | None = None,
    context_length: Annotated[int, whole(1)] | None = None,
    text_attention: Annotated[str, _ATTENTION] = "groups",
    part: str = "student",
) -> ClipModel:
    """Build an open_clip model and load its weights.

    Args:
        name: open_clip architecture, ``hf-hub:org/name`` or ``hf://org/name``, or ``local-dir:/folder``. It is not
            used where ``pretrained`` is a folder or a repository, which decides the architecture itself.
        pretrained: open_clip tag, tag of weights that come with degla, file (also ``hf://org/name/file.pt``), or
            folder or repository (``hf://org/name``) in the layout of open_clip's ``local-dir:`` or of
            ``transformers.CLIPModel``. None takes the weights that an ``hf-hub:`` or
            ``local-dir:`` name includes, and random weights for other names.
        quick_gelu: whether the weights were trained with QuickGELU. None takes what the tag, folder or file
            records, and is an error where nothing is recorded. A value that contradicts what is recorded is an error.
        unlocked_image_groups: None trains the whole image tower, 0 freezes it, n trains its last n groups
            (projection, last block, ..., as open_clip counts them).
        unlocked_text_groups: None trains the whole text tower, 0 freezes it, n trains its last n groups.
        grad_checkpointing: recompute activations in the backward pass to save memory.
        cache_dir: folder for downloads; None is the Hugging Face default.
        context_length: tokens of a text, above the model's own 77, such as Long-CLIP's 248; the first 20 positional
            embeddings stay and the others are stretched, so features of texts of up to 20 tokens stay equal. None keeps
            the model's own.
        text_attention: how the texts of a batch attend: in ``groups`` of about equal length, or over the ``tree`` of
            their prefixes, which on a GPU uses FlexAttention. Features and gradients are the same.
        part: which model of a checkpoint of this project: ``student`` or ``teacher.model``.

    Returns:
        The model in float32 on the CPU. Weights load strictly. ``ClipModel.source`` records what was loaded.

    Raises:
        ConfigError: a number is negative, the name or tag is unknown, the activation contradicts the weights, or the
            config would run code of the model's folder.
        CheckpointError: the weights cannot be read or do not fit the architecture.
    """
    source = find_source(name, pretrained, cache_dir, part)
    config = source.config
    always_quick_gelu = config.get("quick_gelu", False)
    config["quick_gelu"] = _activation(quick_gelu, source)
    if context_length is not None:
        set_context(config["text_cfg"], context_length, source.model.architecture)
    if always_quick_gelu and not config["quick_gelu"]:  # open_clip has no option to build GELU here
        raise ConfigError(
            f"model.name={source.name} always builds QuickGELU, which {source.origin} was not trained with"
        )
    if has_bundled_weights(source.name) and not has_bundled_weights(name):
        log.info(f"{source.origin} is a {source.model.architecture}; model.name={name} is not used")
    clip = _build(source)
    if context_length is not None:
        check_context(clip, context_length, source.model.architecture)
    check_preprocess(clip.visual.preprocess_cfg, source.origin)
    if source.weights is None:
        log.warning(
            "model.pretrained is not set: the model starts from random weights, so its scores test the machinery and "
            "say nothing about a method"
        )
    else:
        _load(clip, source.weights, source, stretch=context_length is not None)
    _freeze(clip, unlocked_image_groups, unlocked_text_groups)
    clip.set_grad_checkpointing(grad_checkpointing)
    causal = is_causal(clip)
    if text_attention == "tree" and not causal:
        raise ConfigError(
            f"model.text_attention=tree needs a causal text tower, and {source.model.architecture} has another: "
            "set model.text_attention=groups"
        )
    eos_id = pooled_token(clip) if causal else None
    merges = own_merges(source)
    tokenizer = CaptionTokenizer(
        _tokenizer(source, clip.context_length, merges),
        clip.context_length,
        causal,
        eos_id,
        packs_tree=text_attention == "tree",
    )
    return ClipModel(clip, config, clip.visual.preprocess_cfg, tokenizer, source.model, merges)


def _activation(declared: bool | None, source: Source) -> bool:
    """Return whether to build QuickGELU; refuse to guess, because the wrong activation silently lowers accuracy."""
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
    return recorded if recorded is not None else bool(source.config.get("quick_gelu", False))


def _build(source: Source) -> CLIP | CustomTextCLIP:
    if "multimodal_cfg" in source.config:
        raise ConfigError(f"model.name={source.name} is a CoCa model; DeGLA trains dual encoders without a decoder")
    try:
        clip = _build_hf(source) if source.is_hf else _build_by_name(source)
    except (TypeError, ValueError, KeyError, AssertionError, RuntimeError) as error:
        if not has_bundled_weights(source.name):
            raise
        raise ConfigError(f"model.name: the config of {source.name} cannot be built ({first_line(error)})") from error
    if not isinstance(clip, CLIP | CustomTextCLIP):
        raise ConfigError(f"model.name={source.name} is a {type(clip).__name__}, not a CLIP model")
    swap_block_classes_(clip)
    if clip.logit_bias is not None:
        clip.logit_bias.requires_grad_(False)  # a softmax does not depend on SigLIP's bias
    return clip


def _build_by_name(source: Source) -> nn.Module:
    try:
        with _quiet(), reachable_hub():
            clip: nn.Module = open_clip.create_model(
                source.name,
                load_weights=False,
                force_quick_gelu=source.config["quick_gelu"],
                force_preprocess_cfg=source.preprocess,
                pretrained_text=False,
                force_context_length=source.config["text_cfg"].get("context_length"),
                nonscalar_logit_scale=True,  # FSDP2 cannot shard a scalar
            )
    except OSError as error:
        tower = source.config["text_cfg"].get("hf_model_name")
        raise ConfigError(
            f"model.name={source.name} needs the config of {tower} from the Hugging Face hub, which is not on this "
            f"machine and could not be downloaded ({first_line(error)}): run once with internet access, or choose a "
            "model with open_clip's own text tower, such as model=vit_b_32"
        ) from error
    return clip


def _build_hf(source: Source) -> CLIP:
    """Build a ``transformers.CLIPModel`` as open_clip's ``CLIP``; open_clip knows no name for it."""
    clip = CLIP(**source.config, nonscalar_logit_scale=True)
    preprocess = {**asdict(PreprocessCfg()), "size": clip.visual.image_size, **source.preprocess}
    set_model_preprocess_cfg(clip, preprocess)
    return clip


def _load(clip: CLIP | CustomTextCLIP, weights: Weights, source: Source, stretch: bool) -> None:
    state = convert_state_dict(clip, dict(weights.state))
    if "positional_embedding" in state and not hasattr(clip, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for name in ("logit_scale", "logit_bias"):
        if name in state and getattr(clip, name) is not None:
            state[name] = state[name].reshape(getattr(clip, name).shape)
    try:
        resize_pos_embed(state, clip)
        if stretch:
            state = stretch_context(state, clip.context_length)
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


def _tokenizer(source: Source, context_length: int, merges: Path | None) -> SimpleTokenizer | HFTokenizer:
    if source.is_hf:
        return SimpleTokenizer(context_length=context_length)
    settings: dict[str, Any] = {}
    if merges:
        settings["bpe_path"] = str(merges)
    elif source.config["text_cfg"].get("hf_tokenizer_name"):
        settings["trust_remote_code"] = False
    try:
        with _quiet(), reachable_hub():
            return open_clip.get_tokenizer(source.name, context_length=context_length, **settings)
    except ImportError as error:
        raise ConfigError(
            f"model.name={source.name} needs a Hugging Face tokenizer: pip install 'degla[hf]' ({first_line(error)})"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the tokenizer of model.name={source.name} is not on this machine and could not be downloaded or read "
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
