"""State dicts of models with a LoRA: which weights are the adapter's, and the weights of the merged model.

peft wraps a layer, so that the layer's own weights get ``.base_layer`` into their names. Only names and tensors are
used here; peft need not be installed.
"""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

ADAPTER = "default"  # peft's name of a model's only adapter
_BASE = ".base_layer"
_FIRST, _SECOND = f".lora_A.{ADAPTER}.weight", f".lora_B.{ADAPTER}.weight"
_ADAPTED = ("weight", "in_proj_weight")  # weights of a layer that an adapter changes
_PEFT_PREFIX = "base_model.model."  # of the names in peft's files


class LoraSettings(NamedTuple):
    """The adapter of a model."""

    rank: int
    alpha: float
    dropout: float
    target_modules: str  # regular expression of the names of the adapted layers, as peft takes it

    @property
    def scaling(self) -> float:
        """The factor of the product of the two matrices."""
        return self.alpha / self.rank


def holds_lora(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict is that of a model with a LoRA that is not merged."""
    return any(name.endswith(_FIRST) for name in state)


def merge_lora(state: Mapping[str, Tensor], scaling: float) -> dict[str, Tensor]:
    """Return the weights of the model without an adapter that computes the same.

    Args:
        state: names and weights of a model with a LoRA.
        scaling: factor of the adapter.

    Returns:
        New tensors for the adapted weights, the same tensors for all others, under open_clip's names.
    """
    merged = {}
    for name, value in state.items():
        if name.endswith((_FIRST, _SECOND)):
            continue
        layer, _, kind = name.rpartition(".")
        layer = layer.removesuffix(_BASE)
        if kind in _ADAPTED and layer + _FIRST in state:
            value = value + _product(state[layer + _FIRST], state[layer + _SECOND], scaling).view_as(value)
        merged[name.replace(_BASE, "")] = value
    return merged


def lora_in_peft_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the adapter's weights alone, under the names of peft's files.

    Args:
        state: names and weights of a model with a LoRA.
    """
    return {
        f"{_PEFT_PREFIX}{name.replace(f'.{ADAPTER}.weight', '.weight')}": value
        for name, value in state.items()
        if name.endswith((_FIRST, _SECOND))
    }


def deltas_of_peft(state: Mapping[str, Tensor], scaling: float) -> dict[str, Tensor]:
    """Return what the adapter in a file of peft's adds to the weight of each layer, as ``(outputs, inputs)``.

    Args:
        state: content of the file.
        scaling: factor of the adapter.
    """
    first, second = ".lora_A.weight", ".lora_B.weight"
    return {
        name.removeprefix(_PEFT_PREFIX).removesuffix(first).replace(_BASE, ""): _product(
            value, state[name.replace(first, second)], scaling
        )
        for name, value in state.items()
        if name.endswith(first)
    }


def _product(first: Tensor, second: Tensor, scaling: float) -> Tensor:
    return scaling * (second.flatten(1) @ first.flatten(1))  # those of a convolution have four dimensions
