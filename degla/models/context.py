"""More text positions than a model was trained with, as Long-CLIP makes them (Zhang et al. 2024, section 3.1)."""

from collections.abc import Mapping

import torch
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor

from degla.errors import ConfigError
from degla.models.text import is_causal

KEPT = 20  # positions that captions use most; they stay as they are
_NAMES = ("positional_embedding", "text.positional_embedding")


def stretch_positions(positions: Tensor, length: int, kept: int = KEPT) -> Tensor:
    """Return positional embeddings for longer texts: the first ones stay, the others are interpolated linearly.

    From 77 to 248 positions the others are stretched by 4, which are Long-CLIP's. The last ones, which lie behind the
    last known one, continue the line through the last two.

    Args:
        positions: ``(L, W)``, L above ``kept`` + 1.
        length: number of positions of the result, at least L.
        kept: number of positions that stay.

    Returns:
        ``(length, W)`` in the dtype of ``positions``.
    """
    num_old = len(positions) - kept
    offsets = torch.arange(length - kept, dtype=torch.float64) * num_old / (length - kept)
    lower = offsets.floor().clamp(max=num_old - 2).long()
    share = (offsets - lower)[:, None]
    tail = positions[kept:].double()
    stretched = (1 - share) * tail[lower] + share * tail[lower + 1]
    return torch.cat([positions[:kept], stretched.to(positions.dtype)])


def stretch_context(state: Mapping[str, Tensor], length: int) -> dict[str, Tensor]:
    """Return weights whose text positions are stretched to ``length``; weights that have as many stay.

    Args:
        state: weights of an open_clip model.
        length: positions of the model that they are for.
    """
    stretched = dict(state)
    for name in _NAMES:
        if name in stretched and KEPT + 1 < len(stretched[name]) < length:
            stretched[name] = stretch_positions(stretched[name], length)
    return stretched


def set_context(config: dict[str, object], length: int, architecture: str) -> None:
    """Set the context length in open_clip's ``text_cfg``, in place.

    Args:
        config: ``text_cfg``.
        length: positions of the text tower.
        architecture: for the message.

    Raises:
        ConfigError: the model already takes longer texts.
    """
    own = config.get("context_length", 77)
    assert isinstance(own, int)
    if length < own:
        raise ConfigError(
            f"model.context_length={length} is less than the {own} tokens of {architecture}: set it to null, or "
            "to more, such as 248"
        )
    config["context_length"] = length


def check_context(clip: CLIP | CustomTextCLIP, length: int, architecture: str) -> None:
    """Refuse a text tower whose features would change with the number of positions.

    Args:
        clip: the model as it was built.
        length: positions of the text tower.
        architecture: for the message.

    Raises:
        ConfigError: the tower reads every position of a text, padding included.
    """
    if not is_causal(clip):
        raise ConfigError(
            f"model.context_length={length} needs a causal text tower like CLIP's, which {architecture} does not have: "
            "set it to null"
        )
