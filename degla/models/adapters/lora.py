"""LoRA for open_clip models, through peft."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import ResidualAttentionBlock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from degla.artifacts import atomic_write
from degla.bounds import above, bounded, share, whole
from degla.errors import CheckpointError, ConfigError, MissingDependencyError
from degla.models.blocks import SwappedBlock
from degla.models.clip import ClipModel
from degla.models.lora_state import ADAPTER, LoraSettings, deltas_of_peft, lora_in_peft_layout
from degla.models.text import is_causal

FOLDER = "adapter"  # of the adapter's files, inside the folder of the merged model
_IN_PROJ, _OUT_PROJ = "attn.in_proj", "attn.out_proj"
# Setting -> how the names of its layers end, as regular expressions: in open_clip's transformers and in timm's. peft
# adapts both projections of an ``nn.MultiheadAttention`` or none, so both settings name the module.
_BLOCK = r"(?:.*\.)?(?:res)?blocks\.\d+"
_LAYERS = {
    _IN_PROJ: (rf"{_BLOCK}\.attn", rf"{_BLOCK}\.attn\.qkv"),
    _OUT_PROJ: (rf"{_BLOCK}\.attn", rf"{_BLOCK}\.attn\.proj"),
    "mlp.c_fc": (rf"{_BLOCK}\.mlp\.c_fc", rf"{_BLOCK}\.mlp\.fc1"),
    "mlp.c_proj": (rf"{_BLOCK}\.mlp\.c_proj", rf"{_BLOCK}\.mlp\.fc2"),
    "conv1": ("conv1", r"trunk\.patch_embed\.proj"),
}
_ADAPTABLE = (nn.MultiheadAttention, nn.Linear, nn.Conv2d)
_TOWERS = {"image": "visual", "text": "(?:text|transformer)"}  # setting -> how the names of its layers begin
_BLOCK_LAYERS = (_IN_PROJ, _OUT_PROJ, "mlp.c_fc", "mlp.c_proj")
_DEFAULT_LAYERS = (
    _IN_PROJ,
    "mlp.c_fc",
    "mlp.c_proj",
)  # peft itself counts that of attn.out_proj twice (docs/adapters.md)


class Lora:
    """Low-rank adapters (Hu et al. 2021): layers compute ``W x + alpha / rank * B A x``, and only A and B are trained.

    Args:
        rank: rows of A and columns of B.
        alpha: the adapter's output is multiplied by ``alpha / rank``. FSC-CLIP trains with rank 4 and alpha 1.
        image: layers of the image tower: attn.in_proj, attn.out_proj, mlp.c_fc, mlp.c_proj, conv1; ``[]`` leaves the
            tower as it is.
        text: layers of the text tower, by the same names without conv1; ``[]`` leaves the tower as it is.
        dropout: share of a layer's inputs that the adapter, and only the adapter, does not see in a step.
        train_logit_scale: whether the logit scale is trained as well.

    Raises:
        ConfigError: a value is out of its range, a layer is unknown, or no layer is named.
    """

    @bounded("adapter")
    def __init__(
        self,
        rank: Annotated[int, whole(1)] = 4,
        alpha: Annotated[float, above(0)] = 1.0,
        image: list[str] | tuple[str, ...] = _DEFAULT_LAYERS,
        text: list[str] | tuple[str, ...] = _DEFAULT_LAYERS,
        dropout: Annotated[float, share(below_one=True)] = 0.0,
        train_logit_scale: bool = False,
    ):
        for key, layers, allowed in (("image", image, tuple(_LAYERS)), ("text", text, _BLOCK_LAYERS)):
            if unknown := [layer for layer in layers if layer not in allowed]:
                raise ConfigError(f"adapter.{key}: {unknown[0]} must be one of {', '.join(allowed)}")
        if not image and not text:
            raise ConfigError("adapter.image and adapter.text are both empty: name layers for one, or set adapter=none")
        self.rank = rank
        self.alpha = alpha
        self.layers = {"image": tuple(image), "text": tuple(text)}
        self.dropout = dropout
        self.train_logit_scale = train_logit_scale

    def attach(self, model: ClipModel) -> None:
        """Freeze a model and give it adapters, in place; its features stay equal to the bit, because B is zero.

        Args:
            model: a model that ``load_clip`` has built.

        Raises:
            ConfigError: the model lacks a layer, its towers are frozen already, or dropout cannot be applied to it.
            MissingDependencyError: peft is not installed.
        """
        try:
            from peft import LoraConfig

            from degla.compat.peft import inject_lora
            from degla.models.adapters.attention import LoraAttention
        except ImportError as error:
            raise MissingDependencyError.for_extra("adapter=lora needs peft", "lora") from error
        clip = model.clip
        self._refuse_model(model)
        settings = self.settings(model)
        config = LoraConfig(**_peft_arguments(settings))
        inject_lora(clip, config, adapter_name=ADAPTER, classes={nn.MultiheadAttention: LoraAttention})
        if any(isinstance(module, nn.BatchNorm2d) for module in clip.visual.modules()):
            clip.lock_image_tower(unlocked_groups=0, freeze_bn_stats=True)  # statistics move without a gradient, too
        for name, module in clip.named_modules():
            if isinstance(module, LoraAttention):
                self._freeze_untargeted(module, "image" if name.startswith("visual.") else "text")
            if hasattr(module, "cast_input_dtype_enabled"):
                module.cast_input_dtype_enabled = False  # autocast chooses the dtype; a cast would copy the states
        clip.logit_scale.requires_grad_(self.train_logit_scale)
        model.lora = settings

    def settings(self, model: ClipModel) -> LoraSettings:
        """Return what the adapter is on a model.

        Args:
            model: a model without an adapter.

        Raises:
            ConfigError: the model lacks a layer.
        """
        target_modules = self._target_modules(model.clip, model.source.architecture)
        return LoraSettings(self.rank, self.alpha, self.dropout, target_modules)

    def _refuse_model(self, model: ClipModel) -> None:
        clip = model.clip
        if any(not p.requires_grad for name, p in clip.named_parameters() if name != "logit_bias"):
            raise ConfigError(
                "adapter=lora freezes the towers itself: set model.unlocked_image_groups=null and "
                "model.unlocked_text_groups=null, and adapter.image=[] or adapter.text=[] to leave a tower as it is"
            )
        attention = {_IN_PROJ, _OUT_PROJ}
        calling = [t for t in _TOWERS if attention & set(self.layers[t]) and _calls_attention(clip, t)]
        if self.dropout and calling:
            raise ConfigError(
                f"adapter.dropout={self.dropout} needs a tower like CLIP's, which the {calling[0]} tower of "
                f"{model.source.architecture} is not: set adapter.dropout=0"
            )

    def _target_modules(self, clip: CLIP | CustomTextCLIP, architecture: str) -> str:
        """Return the regular expression of the names of the adapted layers."""
        patterns = {pattern: None for tower in _TOWERS for pattern in self._tower_patterns(clip, tower, architecture)}
        return "|".join(patterns)

    def _tower_patterns(self, clip: CLIP | CustomTextCLIP, tower: str, architecture: str) -> Iterator[str]:
        names = [name for name, module in clip.named_modules() if isinstance(module, _ADAPTABLE)]
        for layer in self.layers[tower]:
            candidates = [rf"{_TOWERS[tower]}\.{end}" for end in _LAYERS[layer]]
            present = [pattern for pattern in candidates if any(re.fullmatch(pattern, name) for name in names)]
            if not present:
                raise ConfigError(
                    f"adapter.{tower}: the {tower} tower of {architecture} has no layer {layer}: leave it out, or set "
                    f"adapter.{tower}=[] to leave the tower as it is"
                )
            yield from present

    def _freeze_untargeted(self, attention: Any, tower: str) -> None:
        """Freeze the adapter of a projection that is not named, whose B stays zero."""
        projections = {_IN_PROJ: attention, _OUT_PROJ: attention.base_layer.out_proj}
        for layer, module in projections.items():
            if layer not in self.layers[tower]:
                for matrices in (module.lora_A, module.lora_B):
                    matrices.requires_grad_(False)


def save_adapter(settings: LoraSettings, state: Mapping[str, Tensor], folder: Path) -> Path:
    """Write the adapter alone, in the layout that ``peft.PeftModel.from_pretrained`` loads onto an open_clip model.

    Args:
        settings: ``ClipModel.lora``.
        state: weights of the model with the adapter not merged.
        folder: is created.

    Returns:
        ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in lora_in_peft_layout(state).items()}
    with atomic_write(folder / "adapter_model.safetensors") as partial:
        save_file(tensors, partial, metadata={"format": "pt"})
    content = {"peft_type": "LORA", "inference_mode": True, "bias": "none", **_peft_arguments(settings)}
    with atomic_write(folder / "adapter_config.json") as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return folder


def apply_adapter(clip: nn.Module, folder: Path) -> None:
    """Merge an adapter that ``save_adapter`` wrote into the weights of a plain open_clip model, in place.

    peft is not needed. peft 0.21 itself counts the adapter of ``attn.out_proj`` twice (its issue 3774).

    Args:
        clip: the base model, from open_clip.
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        CheckpointError: the files cannot be read, or do not fit the model.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        deltas = deltas_of_peft(load_file(folder / "adapter_model.safetensors"), config["lora_alpha"] / config["r"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder} holds no adapter that can be read ({error})") from error
    weights = clip.state_dict()
    for layer, delta in deltas.items():
        name = f"{layer}.weight" if f"{layer}.weight" in weights else f"{layer}.in_proj_weight"
        if name not in weights or weights[name].numel() != delta.numel():
            raise CheckpointError(f"{folder} is not an adapter of this model, which has no {layer} of that size")
        weights[name] = weights[name] + delta.view_as(weights[name])
    clip.load_state_dict(weights)


def _peft_arguments(settings: LoraSettings) -> dict[str, Any]:
    return {
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": settings.target_modules,
    }


def _calls_attention(clip: CLIP | CustomTextCLIP, tower: str) -> bool:
    """Return whether a tower calls its attention modules, and does not leave their part to the blocks of this project.

    ``LoraAttention`` then adds the product of its matrices to the weights, where the input cannot have dropout.
    """
    blocks = [
        module
        for name, module in clip.named_modules()
        if isinstance(module, ResidualAttentionBlock) and name.startswith("visual.") == (tower == "image")
    ]
    computed_here = all(isinstance(block, SwappedBlock) for block in blocks) and (tower == "image" or is_causal(clip))
    return len(blocks) > 0 and not computed_here
