"""CLIP models: loading, encoding, the teacher, sharding, export."""

from degla.models.clip import ClipModel
from degla.models.load import load_clip
from degla.models.packing import PackedTexts
from degla.models.saving import save_open_clip, save_safetensors
from degla.models.source import ModelSource, has_bundled_weights, resolve_architecture
from degla.models.teacher import Teacher
from degla.models.tokenizer import CaptionTokenizer
from degla.models.wise_ft import interpolate_weights

__all__ = [
    "CaptionTokenizer",
    "ClipModel",
    "ModelSource",
    "PackedTexts",
    "Teacher",
    "has_bundled_weights",
    "interpolate_weights",
    "load_clip",
    "resolve_architecture",
    "save_open_clip",
    "save_safetensors",
]
