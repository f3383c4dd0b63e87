"""``Encoding``, what a forward pass of ``ClipModel`` returns, and the features of patches and words.

Shapes: B images, M texts, P patches, T tokens, D embedding size.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import VisionTransformer
from torch import Tensor

from degla.errors import ConfigError
from degla.models.blocks import ClassTokenBlock, ImageBlock, LastPackedBlock, PackedBlock, text_tower
from degla.models.packing import PackedTexts
from degla.models.text import encode_packed


class Encoding(NamedTuple):
    """Features of images and texts, and where ``ClipModel.reads_tokens`` also of patches and words."""

    image: Tensor  # (B, D) float32, unit norm
    text: Tensor  # (M, D) float32, unit norm
    logit_scale: Tensor  # () the multiplier, already exponentiated
    logit_bias: Tensor | None = None  # () of models with a sigmoid loss
    patches: Tensor | None = None  # (B, P, D) float32, not normalised, without the class token
    tokens: Tensor | None = None  # (M, T, D) float32, not normalised
    token_mask: Tensor | None = None  # (M, T) bool, without the start token and padding


def read_all_states_(clip: CLIP | CustomTextCLIP) -> None:
    """Make the last block of both towers compute all of its states, in place; features stay the same.

    Args:
        clip: a model that ``load_clip`` has built.

    Raises:
        ConfigError: a tower is not of the kind whose states are features of patches or words.
    """
    visual, text = clip.visual, text_tower(clip)
    last_image = visual.transformer.resblocks[-1] if isinstance(visual, VisionTransformer) else None
    last_text = text.transformer.resblocks[-1] if text is not None else None
    if not isinstance(last_image, ClassTokenBlock) or not isinstance(last_text, LastPackedBlock):
        raise ConfigError(
            "this objective compares patches with words, which needs a ViT with a class token and a causal text tower, "
            "such as model=vit_b_32; leave its token terms out for other models (objective.token_focal=0)"
        )
    last_image.__class__, last_text.__class__ = ImageBlock, PackedBlock
    visual.output_tokens = True


def encode_patches(clip: CLIP | CustomTextCLIP, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Encode images to features of the image and of its patches, in the dtype of the tower.

    Args:
        clip: a model after ``read_all_states_``.
        pixels: ``(B, 3, H, W)``, normalised.

    Returns:
        ``(B, D)`` and ``(B, P, D)``.
    """
    pooled, patches = clip.visual(pixels)
    return pooled, patches if clip.visual.proj is None else patches @ clip.visual.proj


def encode_words(clip: CLIP | CustomTextCLIP, packed: PackedTexts) -> tuple[Tensor, Tensor, Tensor]:
    """Encode texts to features of the text and of each of its tokens.

    Args:
        clip: a model after ``read_all_states_``.
        packed: M texts.

    Returns:
        ``(M, D)`` and ``(M, T, D)`` in the dtype of the tower, T being the length of the longest text, and the
        ``(M, T)`` mask of the tokens that count: all but the start token and padding.
    """
    states = encode_packed(clip, packed)
    longest = max(group.shape[1] for group in packed.groups)
    index = torch.cat([F.pad(group, (0, longest - group.shape[1])) for group in packed.groups])[packed.texts]
    offsets = torch.arange(longest, device=index.device)
    mask = (offsets > 0) & (offsets < packed.lengths[packed.texts][:, None])
    return states[packed.last][packed.texts], states[index], mask
