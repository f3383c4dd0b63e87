"""Writing a model so that ``transformers.CLIPModel.from_pretrained`` loads it."""

from collections.abc import Callable
from pathlib import Path

from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn

from degla.errors import ConfigError
from degla.models.clip import ClipModel

_START, _END = "<|startoftext|>", "<|endoftext|>"  # as transformers calls open_clip's first and last token
_HEAD_WIDTH = 64  # where an open_clip config names none


def save_hf(model: ClipModel, folder: Path) -> Path:
    """Write model, tokenizer and image processor of a CLIP with two plain transformer towers.

    Args:
        model: on the CPU.
        folder: is created.

    Returns:
        ``folder``.

    Raises:
        ConfigError: transformers is missing, or has no class for this architecture.
    """
    try:
        from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer
    except ImportError as error:
        raise ConfigError("to=hf needs pip install 'degla[hf]'") from error
    _refuse(model)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = model.tokenizer.tokenize
    vocabulary = dict(tokenizer.encoder)
    vocabulary[_START], vocabulary[_END] = vocabulary.pop(_first(tokenizer)), vocabulary.pop(_last(tokenizer))
    converted = CLIPModel(CLIPConfig(**_config(model, vocabulary)))
    converted.load_state_dict(_state(model.clip.state_dict()), strict=True)
    converted.save_pretrained(folder)  # safetensors, written whole
    merges = [pair for pair, _ in sorted(tokenizer.bpe_ranks.items(), key=lambda item: item[1])]
    length = model.tokenizer.context_length
    CLIPTokenizer(vocabulary, merges, model_max_length=length).save_pretrained(folder)
    size = model.image_size[0]
    CLIPImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=list(model.preprocess["mean"]),
        image_std=list(model.preprocess["std"]),
        resample={"bilinear": 2, "bicubic": 3}[model.preprocess["interpolation"]],
    ).save_pretrained(folder)
    return folder


def _refuse(model: ClipModel) -> None:
    clip = model.clip
    if not (isinstance(clip, CLIP) and isinstance(clip.visual, VisionTransformer)):
        raise ConfigError(
            f"to=hf: transformers' CLIPModel has no {type(clip).__name__} with {type(clip.visual).__name__}"
        )
    if not isinstance(model.tokenizer.tokenize, SimpleTokenizer):
        raise ConfigError("to=hf: only models with CLIP's own kind of tokenizer can be written")
    pools = (clip.visual.pool_type, clip.text_pool_type)
    if pools != ("tok", "argmax") or clip.visual.attn_pool is not None or clip.visual.final_ln_after_pool:
        raise ConfigError(f"to=hf: transformers' CLIPModel does not pool as this model does ({', '.join(pools)})")
    blocks = [*clip.visual.transformer.resblocks, *clip.transformer.resblocks]
    plain = all(
        isinstance(block.ls_1, nn.Identity)
        and isinstance(block.ls_2, nn.Identity)
        and (
            isinstance(gelu := block.mlp.gelu, QuickGELU) or (isinstance(gelu, nn.GELU) and gelu.approximate == "none")
        )
        for block in blocks
    )
    if clip.attn_mask is None or not plain or not isinstance(clip.visual.ln_pre, nn.LayerNorm):
        raise ConfigError(
            "to=hf: transformers' CLIPModel has causal text, a layer norm before its plain blocks of vision, and "
            "GELU or QuickGELU; this model is built otherwise"
        )
    if len(set(model.image_size)) > 1:
        raise ConfigError(f"to=hf: its image processor makes squares, not {model.image_size}")
    if model.preprocess["resize_mode"] != "shortest":
        raise ConfigError(f"to=hf: its image processor does not resize by {model.preprocess['resize_mode']}")


def _config(model: ClipModel, vocabulary: dict[str, int]) -> dict:
    known, act = model.config, "quick_gelu" if model.config["quick_gelu"] else "gelu"
    vision, text = known["vision_cfg"], known["text_cfg"]

    def tower(settings: dict, heads: int, norm: nn.LayerNorm) -> dict:
        return {
            "hidden_size": settings["width"],
            "intermediate_size": int(settings["width"] * settings.get("mlp_ratio", 4.0)),
            "num_hidden_layers": settings["layers"],
            "num_attention_heads": heads,
            "hidden_act": act,
            "layer_norm_eps": norm.eps,
            "projection_dim": known["embed_dim"],
        }

    return {
        "projection_dim": known["embed_dim"],
        "vision_config": tower(
            vision, vision["width"] // vision.get("head_width", _HEAD_WIDTH), model.clip.visual.ln_post
        )
        | {"image_size": vision["image_size"], "patch_size": vision["patch_size"]},
        "text_config": tower(text, text["heads"], model.clip.ln_final)
        | {
            "vocab_size": text["vocab_size"],
            "max_position_embeddings": text["context_length"],
            "bos_token_id": vocabulary[_START],
            "eos_token_id": vocabulary[_END],
            "pad_token_id": vocabulary[_END],
        },
    }


def _state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's names to transformers'; the stacked query, key and value projections apart."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        tower, rest = (
            ("vision_model", name.removeprefix("visual.")) if name.startswith("visual.") else ("text_model", name)
        )
        if rest.startswith("transformer.resblocks."):
            number, _, inner = rest.removeprefix("transformer.resblocks.").partition(".")
            layer = f"{tower}.encoder.layers.{number}"
            if inner.startswith("attn.in_proj_"):
                kind = inner.removeprefix("attn.in_proj_")
                for part, piece in zip("qkv", value.chunk(3), strict=True):
                    found[f"{layer}.self_attn.{part}_proj.{kind}"] = piece.contiguous()
            else:
                found[f"{layer}.{_INNER[inner.rpartition('.')[0]]}.{inner.rpartition('.')[2]}"] = value
        elif (tower, rest) in _OUTER:
            new, change = _OUTER[tower, rest]
            found[new] = change(value).contiguous()
        elif rest != "attn_mask":
            raise ConfigError(f"to=hf: transformers' CLIPModel has no place for {name}")
    return found


def _as_is(value: Tensor) -> Tensor:
    return value


def _turned(value: Tensor) -> Tensor:
    return value.T


_INNER = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}  # fmt: skip
_OUTER: dict[tuple[str, str], tuple[str, Callable[[Tensor], Tensor]]] = {
    ("text_model", "logit_scale"): ("logit_scale", lambda value: value.reshape(())),
    ("text_model", "token_embedding.weight"): ("text_model.embeddings.token_embedding.weight", _as_is),
    ("text_model", "positional_embedding"): ("text_model.embeddings.position_embedding.weight", _as_is),
    ("text_model", "ln_final.weight"): ("text_model.final_layer_norm.weight", _as_is),
    ("text_model", "ln_final.bias"): ("text_model.final_layer_norm.bias", _as_is),
    ("text_model", "text_projection"): ("text_projection.weight", _turned),
    ("vision_model", "class_embedding"): ("vision_model.embeddings.class_embedding", _as_is),
    ("vision_model", "conv1.weight"): ("vision_model.embeddings.patch_embedding.weight", _as_is),
    ("vision_model", "positional_embedding"): ("vision_model.embeddings.position_embedding.weight", _as_is),
    ("vision_model", "ln_pre.weight"): ("vision_model.pre_layrnorm.weight", _as_is),  # as transformers spells it
    ("vision_model", "ln_pre.bias"): ("vision_model.pre_layrnorm.bias", _as_is),
    ("vision_model", "ln_post.weight"): ("vision_model.post_layernorm.weight", _as_is),
    ("vision_model", "ln_post.bias"): ("vision_model.post_layernorm.bias", _as_is),
    ("vision_model", "proj"): ("visual_projection.weight", _turned),
}


def _first(tokenizer: SimpleTokenizer) -> str:
    return tokenizer.decoder[tokenizer.sot_token_id]


def _last(tokenizer: SimpleTokenizer) -> str:
    return tokenizer.decoder[tokenizer.eot_token_id]
