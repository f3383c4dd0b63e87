"""Copies of a model that share the weights which do not move."""

import copy
from typing import Any

from torch import nn

from degla.models.clip import ClipModel


def copy_sharing_base(model: ClipModel, with_adapter: bool) -> ClipModel:
    """Return a copy of a model with a LoRA whose frozen parameters are the same objects.

    Args:
        model: is not changed.
        with_adapter: whether the copy has the adapter, with matrices of its own; otherwise it is the base model.
    """
    shared = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    twin = copy.deepcopy(model, memo=dict(shared))
    if not with_adapter:
        twin.lora = None
        _unwrap(twin)
    return twin


def _unwrap(module: nn.Module) -> None:
    """Replace each layer that peft has wrapped by the layer itself, in place."""
    for name, child in list(module.named_children()):
        layer: Any = child
        while hasattr(layer, "lora_A"):
            layer = layer.base_layer
        setattr(module, name, layer)
        _unwrap(layer)
