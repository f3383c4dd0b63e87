"""Where rows come from: one function for each kind of file, all giving a ``RowTable`` or a ``RowStream``."""

from degla.data.sources.annotations import coco, folder, negclip_tsv
from degla.data.sources.huggingface import huggingface
from degla.data.sources.scenes import scenes, scenes_and_general
from degla.data.sources.table import RowStream, RowTable

__all__ = ["RowStream", "RowTable", "coco", "folder", "huggingface", "negclip_tsv", "scenes", "scenes_and_general"]
