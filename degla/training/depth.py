"""The tower and the depth of a parameter, for learning rates that differ between them."""

import re
from collections.abc import Iterable
from typing import NamedTuple

_BLOCK = re.compile(r"\.(?:resblocks|blocks|layers?|h)\.(\d+)\.")  # of open_clip, timm and Hugging Face towers
_STAGE = re.compile(r"\bvisual\.layer(\d+)\.")  # of ResNets, which count from 1
_INPUT = re.compile(  # parts of a tower before its first block
    r"(?:_embedding|embeddings|patch_embed|pos_embed|cls_token|ln_pre|norm_pre)\b|\bvisual\.(?:conv|bn)\d"
)
_POOL = re.compile(r"attn_?pool")  # has positions of its own


class Position(NamedTuple):
    """The place of a parameter in a model."""

    tower: str  # image, text or logit_scale
    depth: int | None  # 0 for what comes before the blocks, 1 for the first block, ...; None for what comes after


def position(name: str) -> Position:
    """Return where in the model a parameter is.

    Args:
        name: of a parameter of a ``ClipModel``.
    """
    if "logit_" in name:
        return Position("logit_scale", None)
    tower = "image" if re.search(r"\bvisual\.", name) else "text"
    if block := _BLOCK.search(name):
        return Position(tower, int(block[1]) + 1)
    if stage := _STAGE.search(name):
        return Position(tower, int(stage[1]))
    return Position(tower, 0 if _INPUT.search(name) and not _POOL.search(name) else None)


def count_blocks(names: Iterable[str]) -> dict[str, int]:
    """Return the number of blocks of each tower.

    Args:
        names: of all parameters of a model.
    """
    blocks: dict[str, int] = {}
    for tower, depth in map(position, names):
        blocks[tower] = max(blocks.get(tower, 0), depth or 0)
    return blocks
