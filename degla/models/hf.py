"""Writing a model so that ``transformers.CLIPModel.from_pretrained`` loads it."""

from pathlib import Path
from typing import Any

from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import nn

from degla.errors import ConfigError, MissingDependencyError
from degla.models.clip import ClipModel
from degla.models.hf_layout import END, RESAMPLE, START, config_to_hf, state_to_hf, vocabulary_of_hf


def save_hf(model: ClipModel, folder: Path) -> Path:
    """Write model, tokenizer and image processor of a CLIP with two plain transformer towers.

    Args:
        model: on the CPU.
        folder: is created.

    Returns:
        ``folder``.

    Raises:
        ConfigError: transformers has no class for this architecture.
        MissingDependencyError: transformers is not installed.
    """
    try:
        from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer
    except ImportError as error:
        raise MissingDependencyError.for_extra("to=hf needs transformers", "hf") from error
    _refuse_other_architectures(model)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = model.tokenizer.tokenize
    vocabulary = vocabulary_of_hf(tokenizer)
    clip = model.clip
    config = config_to_hf(model.config, text_eps=clip.ln_final.eps, vision_eps=clip.visual.ln_post.eps)
    end = vocabulary[END]
    config["text_config"] |= {"bos_token_id": vocabulary[START], "eos_token_id": end, "pad_token_id": end}
    converted = CLIPModel(CLIPConfig(**config))
    converted.load_state_dict(state_to_hf(model.open_clip_state()), strict=True)
    converted.save_pretrained(folder)  # as safetensors
    merges = [pair for pair, _ in sorted(tokenizer.bpe_ranks.items(), key=lambda item: item[1])]
    length = model.tokenizer.context_length
    CLIPTokenizer(vocabulary, merges, model_max_length=length).save_pretrained(folder)
    size = model.image_size[0]
    CLIPImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=list(model.preprocess["mean"]),
        image_std=list(model.preprocess["std"]),
        resample=RESAMPLE[model.preprocess["interpolation"]],
    ).save_pretrained(folder)
    return folder


def _refuse_other_architectures(model: ClipModel) -> None:
    clip = model.clip
    if not (isinstance(clip, CLIP) and isinstance(clip.visual, VisionTransformer)):
        raise ConfigError(
            f"to=hf: transformers' CLIPModel has no {type(clip).__name__} with {type(clip.visual).__name__}; "
            "set to=open_clip"
        )
    if not isinstance(model.tokenizer.tokenize, SimpleTokenizer):
        raise ConfigError("to=hf: only models with CLIP's own kind of tokenizer can be written; set to=open_clip")
    pools = (clip.visual.pool_type, clip.text_pool_type)
    if pools != ("tok", "argmax") or clip.visual.attn_pool is not None or clip.visual.final_ln_after_pool:
        raise ConfigError(
            f"to=hf: transformers' CLIPModel does not pool as this model does ({', '.join(pools)}); set to=open_clip"
        )
    blocks = [*clip.visual.transformer.resblocks, *clip.transformer.resblocks]
    plain = all(map(_is_plain_block, blocks))
    if clip.attn_mask is None or not plain or not isinstance(clip.visual.ln_pre, nn.LayerNorm):
        raise ConfigError(
            "to=hf: transformers' CLIPModel needs a causal text tower, a layer norm before plain vision blocks, and "
            "GELU or QuickGELU, but this model is built differently; set to=open_clip"
        )
    if len(set(model.image_size)) > 1:
        raise ConfigError(f"to=hf: the image processor makes square images, not {model.image_size}; set to=open_clip")
    if model.preprocess["resize_mode"] != "shortest":
        raise ConfigError(
            f"to=hf: the image processor does not resize by {model.preprocess['resize_mode']}; set to=open_clip"
        )


def _is_plain_block(block: Any) -> bool:
    gelu = block.mlp.gelu
    plain_gelu = isinstance(gelu, QuickGELU) or (isinstance(gelu, nn.GELU) and gelu.approximate == "none")
    return plain_gelu and isinstance(block.ls_1, nn.Identity) and isinstance(block.ls_2, nn.Identity)
