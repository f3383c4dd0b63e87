"""The layout of ``transformers.CLIPModel``, and its names and settings in open_clip, in both directions.

Shapes: D embedding, W width.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from degla.errors import CheckpointError, ConfigError

START, END = "<|startoftext|>", "<|endoftext|>"  # transformers' names of open_clip's first and last token
RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers, which image processors record

# transformers' defaults, which its config files may leave out.
_TEXT_DEFAULTS = {"vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
                  "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
                  "layer_norm_eps": 1e-5}  # fmt: skip
_VISION_DEFAULTS = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
                    "image_size": 224, "patch_size": 32, "num_channels": 3, "hidden_act": "quick_gelu",
                    "layer_norm_eps": 1e-5}  # fmt: skip
_HEAD_WIDTH = 64  # open_clip's default
_EPS = 1e-5  # likewise

_TOWERS = {"text_model": "", "vision_model": "visual."}  # transformers' tower -> open_clip's prefix
# Parts of a block: open_clip's name -> transformers'. The projections of attention are stacked in open_clip.
_BLOCK_PARTS = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}  # fmt: skip
# All other weights: open_clip's name -> transformers'.
_OTHERS = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",  # transformers' spelling
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
}
_TRANSPOSED = {"text_projection", "visual.proj"}  # (W, D) in open_clip, (D, W) in transformers
_HF_BLOCK = re.compile(
    r"(?P<tower>text_model|vision_model)\.encoder\.layers\.(?P<number>\d+)\.(?P<part>.+)\.(?P<kind>\w+)"
)
_BLOCK = re.compile(r"(?P<prefix>visual\.)?transformer\.resblocks\.(?P<number>\d+)\.(?P<rest>.+)")


def state_to_hf(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename open_clip's weights to transformers', and split the stacked projections ``(3 * W, W)`` of attention.

    Args:
        state: of an open_clip ``CLIP`` with two transformer towers.

    Raises:
        ConfigError: a weight has no counterpart.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        if block := _BLOCK.fullmatch(name):
            tower = "vision_model" if block["prefix"] else "text_model"
            layer, rest = f"{tower}.encoder.layers.{block['number']}", block["rest"]
            part, _, kind = rest.rpartition(".")
            if rest.startswith("attn.in_proj_"):
                kind = rest.removeprefix("attn.in_proj_")
                for letter, piece in zip("qkv", value.chunk(3), strict=True):
                    renamed[f"{layer}.self_attn.{letter}_proj.{kind}"] = piece.contiguous()
            elif part in _BLOCK_PARTS:
                renamed[f"{layer}.{_BLOCK_PARTS[part]}.{kind}"] = value
            else:
                raise ConfigError(f"to=hf: transformers' CLIPModel has no {name}; set to=open_clip")
        elif name in _OTHERS:
            renamed[_OTHERS[name]] = _reshaped(name, value)
        elif name != "attn_mask":
            raise ConfigError(f"to=hf: transformers' CLIPModel has no {name}; set to=open_clip")
    return renamed


def state_from_hf(state: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Rename transformers' weights to open_clip's, and stack the projections of attention to ``(3 * W, W)``.

    Args:
        state: of a ``transformers.CLIPModel``.
        origin: for messages.

    Raises:
        CheckpointError: a weight has no counterpart, or a projection is missing.
    """
    others = {hf_name: name for name, hf_name in _OTHERS.items()}
    parts = {hf_part: part for part, hf_part in _BLOCK_PARTS.items()}
    renamed: dict[str, Tensor] = {}
    projections: dict[str, dict[str, Tensor]] = {}  # open_clip's name -> letter -> value
    for name, value in state.items():
        block = _HF_BLOCK.fullmatch(name)
        if name in others:
            renamed[others[name]] = _reshaped(others[name], value)
        elif block and block["part"] in parts:
            renamed[f"{_block_name(block)}.{parts[block['part']]}.{block['kind']}"] = value
        elif block and re.fullmatch(r"self_attn\.[qkv]_proj", block["part"]):
            stacked = f"{_block_name(block)}.attn.in_proj_{block['kind']}"
            projections.setdefault(stacked, {})[block["part"].removeprefix("self_attn.")[0]] = value
        elif not name.endswith(".position_ids"):  # a counter that older versions saved
            raise CheckpointError(f"model.pretrained: {origin} holds {name}, which is not part of a plain CLIPModel")
    for name, pieces in projections.items():
        if len(pieces) != 3:
            raise CheckpointError(f"model.pretrained: {origin} lacks a part of the attention weights {name}")
        renamed[name] = torch.cat([pieces[letter] for letter in "qkv"])
    return renamed


def config_to_hf(config: Mapping[str, Any], text_eps: float, vision_eps: float) -> dict[str, Any]:
    """Return the arguments of ``transformers.CLIPConfig`` for an open_clip ``model_cfg``, without the tokens' ids.

    Args:
        config: of a model that ``state_to_hf`` can convert.
        text_eps: of the text tower's layer norms.
        vision_eps: of the image tower's layer norms.
    """
    act = "quick_gelu" if config["quick_gelu"] else "gelu"
    vision, text = config["vision_cfg"], config["text_cfg"]

    def tower(settings: Mapping[str, Any], heads: int, eps: float) -> dict[str, Any]:
        return {
            "hidden_size": settings["width"],
            "intermediate_size": int(settings["width"] * settings.get("mlp_ratio", 4.0)),
            "num_hidden_layers": settings["layers"],
            "num_attention_heads": heads,
            "hidden_act": act,
            "layer_norm_eps": eps,
            "projection_dim": config["embed_dim"],
        }

    image = {"image_size": vision["image_size"], "patch_size": vision["patch_size"]}
    tokens = {"vocab_size": text["vocab_size"], "max_position_embeddings": text["context_length"]}
    heads = vision["width"] // vision.get("head_width", _HEAD_WIDTH)
    return {
        "projection_dim": config["embed_dim"],
        "vision_config": tower(vision, heads, vision_eps) | image,
        "text_config": tower(text, text["heads"], text_eps) | tokens,
    }


def config_from_hf(settings: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Return open_clip's ``model_cfg`` for the ``config.json`` of a ``transformers.CLIPModel``.

    Args:
        settings: content of the file.
        origin: for messages.

    Raises:
        ConfigError: open_clip's ``CLIP`` cannot be built like this model.
    """
    text, vision = (_tower_settings(settings, key, origin) for key in ("text", "vision"))
    acts = {text["hidden_act"], vision["hidden_act"]}
    if acts not in ({"gelu"}, {"quick_gelu"}):
        raise ConfigError(
            f"model.pretrained: {origin} has the activations {', '.join(map(str, acts))}, not one of CLIP's"
        )
    if vision["num_channels"] != 3:
        raise ConfigError(f"model.pretrained: {origin} takes images of {vision['num_channels']} channels, not 3")
    config: dict[str, Any] = {
        "embed_dim": settings.get("projection_dim", 512),
        "quick_gelu": acts == {"quick_gelu"},
        "vision_cfg": {
            "image_size": vision["image_size"],
            "layers": vision["num_hidden_layers"],
            "width": vision["hidden_size"],
            "patch_size": vision["patch_size"],
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "width": text["hidden_size"],
            "heads": text["num_attention_heads"],
            "layers": text["num_hidden_layers"],
        },
    }
    head_width = vision["hidden_size"] / vision["num_attention_heads"]
    if head_width != _HEAD_WIDTH:
        config["vision_cfg"]["head_width"] = int(head_width)
    for tower, of_hf in (("vision_cfg", vision), ("text_cfg", text)):
        if of_hf["intermediate_size"] != 4 * of_hf["hidden_size"]:
            config[tower]["mlp_ratio"] = of_hf["intermediate_size"] / of_hf["hidden_size"]
        if of_hf["layer_norm_eps"] != _EPS:
            config[tower]["norm_kwargs"] = {"eps": of_hf["layer_norm_eps"]}
    return config


def vocabulary_of_hf(tokenizer: SimpleTokenizer) -> dict[str, int]:
    """Return token -> id of a tokenizer of open_clip, with transformers' names of the first and the last token."""
    names = {tokenizer.sot_token_id: START, tokenizer.eot_token_id: END}
    return {names.get(number, token): number for token, number in tokenizer.encoder.items()}


def _tower_settings(settings: Mapping[str, Any], tower: str, origin: str) -> dict[str, Any]:
    """Return a tower's settings; older files have them twice, and the ``_dict`` counts."""
    defaults: dict[str, Any] = _TEXT_DEFAULTS if tower == "text" else _VISION_DEFAULTS
    written = [settings.get(key) or {} for key in (f"{tower}_config", f"{tower}_config_dict")]
    if not all(isinstance(part, dict) for part in written):
        raise ConfigError(f"model.pretrained: the config.json of {origin} has no {tower}_config")
    merged = defaults | written[0] | written[1]
    for key, default in defaults.items():
        if type(merged[key]) is not type(default) or (isinstance(default, int) and merged[key] < 1):
            raise ConfigError(f"model.pretrained: the config.json of {origin} has {tower}_config.{key}={merged[key]!r}")
    return {key: merged[key] for key in defaults}


def _block_name(block: re.Match[str]) -> str:
    return f"{_TOWERS[block['tower']]}transformer.resblocks.{block['number']}"


def _reshaped(name: str, value: Tensor) -> Tensor:
    """Return the value of an open_clip weight in the shape of the other library."""
    if name == "logit_scale":
        return value.reshape(())
    return value.T.contiguous() if name in _TRANSPOSED else value
