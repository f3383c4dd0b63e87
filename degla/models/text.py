"""Text towers that compute only the states that their features depend on."""

import torch.nn.functional as F
from torch import Tensor, nn

from degla.models.blocks import LastPackedBlock, text_tower
from degla.models.packing import PackedTexts, pack


def is_causal(clip: nn.Module) -> bool:
    """Whether positions after the end-of-text token cannot change the feature.

    True for a causal tower that reads its feature at the end-of-text token. Bidirectional towers (SigLIP,
    Hugging Face text models) and towers with an appended class token are not such.
    """
    tower = text_tower(clip)
    if tower is None or getattr(tower, "cls_emb", None) is not None or getattr(tower, "use_pad_mask", False):
        return False
    if not isinstance(tower.transformer.resblocks[-1], LastPackedBlock):
        return False
    return tower.attn_mask is not None and _pool_type(tower) in ("argmax", "eos")


def encode_text(clip: nn.Module, texts: Tensor | PackedTexts) -> Tensor:
    """Text features before normalisation.

    A causal tower computes each distinct beginning once and nothing behind the end of a text; the features
    and gradients are those of open_clip (1e-5 in float32).

    Args:
        clip: an open_clip ``CLIP`` or ``CustomTextCLIP`` that ``load_clip`` has built.
        texts: packed, or ``(M, L)`` int64, L at most the context length. Causal towers pack such tokens
            first, which waits for the device they are on.

    Returns:
        ``(M, D)`` in the dtype of the tower.

    Raises:
        ValueError: ``texts`` is packed or shorter than the context, and the tower is not causal.
    """
    if not is_causal(clip):
        if isinstance(texts, PackedTexts) or texts.shape[1] != clip.context_length:
            length = len(texts.tokens) if isinstance(texts, PackedTexts) else texts.shape[1]
            raise ValueError(f"this text tower needs all {clip.context_length} positions, got {length}")
        return clip.encode_text(texts)
    if isinstance(texts, Tensor):
        texts = pack(texts, end_positions(texts, pooled_token(clip)) + 1).to(texts.device)
    tower = text_tower(clip)
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(texts.tokens) + F.embedding(texts.positions, tower.positional_embedding)
    x = tower.ln_final(tower.transformer(x.to(dtype), attn_mask=texts))
    if isinstance(tower.text_projection, nn.Linear):
        x = tower.text_projection(x)
    elif tower.text_projection is not None:
        x = x @ tower.text_projection
    return x[texts.texts]


def end_positions(tokens: Tensor, eos_id: int | None) -> Tensor:
    """``(M,)`` index of each text's end-of-text token (``eos_id``, or the largest id as OpenAI's BPE has it)."""
    return tokens.argmax(-1) if eos_id is None else (tokens == eos_id).int().argmax(-1)


def pooled_token(clip: nn.Module) -> int | None:
    """The id at which the tower reads its feature; None means the largest id of the text."""
    tower = text_tower(clip)
    if _pool_type(tower) == "argmax":
        return None
    return tower.text_eos_id if hasattr(tower, "text_eos_id") else tower.eos_id


def _pool_type(tower: nn.Module) -> str:
    return tower.text_pool_type if hasattr(tower, "text_pool_type") else tower.pool_type
