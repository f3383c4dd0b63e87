"""Private names of peft, read in version 0.21.2; importing this module needs peft."""

from peft import LoraConfig, inject_adapter_in_model
from torch import nn


def inject_lora(
    model: nn.Module, config: LoraConfig, adapter_name: str, classes: dict[type[nn.Module], type[nn.Module]]
) -> None:
    """Wrap the layers that ``config`` names, in place, and freeze all parameters that are not the adapter's.

    ``LoraConfig._register_custom_module`` is how peft's guide to custom models replaces the class of a wrapper.
    Source: https://github.com/huggingface/peft/blob/main/src/peft/tuners/lora/config.py

    Args:
        model: any module.
        config: rank, alpha, dropout and names of layers.
        adapter_name: part of the names of the adapter's parameters.
        classes: class of a layer -> class of its wrapper, where it is not peft's own.
    """
    config._register_custom_module(classes)
    inject_adapter_in_model(config, model, adapter_name=adapter_name)
