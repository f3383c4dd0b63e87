"""CLIP models: loading, encoding, the teacher, sharding. Only this folder imports open_clip."""

from degla.models.clip import ClipModel
from degla.models.load import architecture_of, brings_weights, load_clip
from degla.models.packing import PackedTexts
from degla.models.saving import save_open_clip, save_safetensors
from degla.models.teacher import Teacher
from degla.models.tokenizer import CaptionTokenizer
from degla.models.wise_ft import interpolated

__all__ = [
    "CaptionTokenizer",
    "ClipModel",
    "PackedTexts",
    "Teacher",
    "architecture_of",
    "brings_weights",
    "interpolated",
    "load_clip",
    "save_open_clip",
    "save_safetensors",
]
