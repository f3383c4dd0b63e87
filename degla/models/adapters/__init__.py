"""Low-rank adapters (LoRA): attaching them to a model, copies that share its frozen weights, files in peft's layout."""

from degla.models.adapters.lora import FOLDER, Lora, apply_adapter, save_adapter
from degla.models.adapters.sharing import copy_sharing_base

__all__ = ["FOLDER", "Lora", "apply_adapter", "copy_sharing_base", "save_adapter"]
