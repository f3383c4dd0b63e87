"""Sources of samples: one function for each kind of file; all return a ``SampleTable`` or a ``SampleStream``."""

from degla.data.sources.annotations import coco, folder, negclip_tsv
from degla.data.sources.ce_clip import ce_clip_npy
from degla.data.sources.huggingface import huggingface
from degla.data.sources.scenes import scenes, scenes_and_general
from degla.data.sources.table import SampleStream, SampleTable

__all__ = [
    "SampleStream",
    "SampleTable",
    "ce_clip_npy",
    "coco",
    "folder",
    "huggingface",
    "negclip_tsv",
    "scenes",
    "scenes_and_general",
]
