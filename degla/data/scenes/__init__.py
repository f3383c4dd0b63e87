"""The built-in world: drawn scenes of two objects, with captions and typed hard negatives."""

from degla.data.scenes.captions import caption_of, hard_negatives
from degla.data.scenes.scene import Claim, Scene, Thing, is_true, png_bytes, sample_scene

__all__ = ["Claim", "Scene", "Thing", "caption_of", "hard_negatives", "is_true", "png_bytes", "sample_scene"]
