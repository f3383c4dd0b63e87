"""The built-in world: drawn scenes with true captions and typed hard negatives, and general zero-shot tasks."""

from degla.data.scenes.captions import caption_of
from degla.data.scenes.claims import Claim, Noun, holds, sample_claim
from degla.data.scenes.draw import png_bytes
from degla.data.scenes.general import GENERAL_TASKS, GeneralTask, general_examples
from degla.data.scenes.negatives import hard_negatives
from degla.data.scenes.scene import LAYOUTS, SPLITS, Scene, Thing, sample_scene, split_of
from degla.data.scenes.suite import SUBSETS, SuiteItem, suite_items

__all__ = [
    "GENERAL_TASKS",
    "LAYOUTS",
    "SPLITS",
    "SUBSETS",
    "Claim",
    "GeneralTask",
    "Noun",
    "Scene",
    "SuiteItem",
    "Thing",
    "caption_of",
    "general_examples",
    "hard_negatives",
    "holds",
    "png_bytes",
    "sample_claim",
    "sample_scene",
    "split_of",
    "suite_items",
]
