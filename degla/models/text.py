"""Text towers that read only as many positions as the longest caption has."""

from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor, nn


def can_trim(clip: nn.Module) -> bool:
    """Whether positions after the end-of-text token cannot change the feature.

    True for a causal tower that reads its feature at the end-of-text token. Bidirectional towers (SigLIP,
    Hugging Face text models) and towers with an appended class token are not such.
    """
    tower = _tower(clip)
    if tower is None or getattr(tower, "cls_emb", None) is not None:
        return False
    return tower.attn_mask is not None and _pool_type(tower) in ("argmax", "eos")


def encode_text(clip: nn.Module, tokens: Tensor) -> Tensor:
    """Text features before normalisation.

    open_clip 3.3 adds all 77 positions and so refuses shorter input; slicing the positional embedding and
    the causal mask gives the same features (2e-6 in float32) for a fraction of the work.

    Args:
        clip: an open_clip ``CLIP`` or ``CustomTextCLIP``.
        tokens: ``(M, L)`` int64, L at most the context length.

    Returns:
        ``(M, D)`` in the dtype of the tower.

    Raises:
        ValueError: ``tokens`` is shorter than the context and the tower is not causal.
    """
    length = tokens.shape[1]
    if length == clip.context_length:
        return clip.encode_text(tokens)
    if not can_trim(clip):
        raise ValueError(f"this text tower needs all {clip.context_length} positions, got {length}")
    tower = _tower(clip)
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    eos_id = tower.text_eos_id if isinstance(tower, CLIP) else tower.eos_id
    x = text_global_pool(tower.ln_final(x), tokens, _pool_type(tower), eos_token_id=eos_id)
    if isinstance(tower.text_projection, nn.Linear):
        return tower.text_projection(x)
    return x if tower.text_projection is None else x @ tower.text_projection


def end_positions(tokens: Tensor, eos_id: int | None) -> Tensor:
    """``(M,)`` index of each text's end-of-text token (``eos_id``, or the largest id as OpenAI's BPE has it)."""
    return tokens.argmax(-1) if eos_id is None else (tokens == eos_id).int().argmax(-1)


def pooled_token(clip: nn.Module) -> int | None:
    """The id at which the tower reads its feature; None means the largest id of the text."""
    tower = _tower(clip)
    if _pool_type(tower) == "argmax":
        return None
    return tower.text_eos_id if isinstance(tower, CLIP) else tower.eos_id


def _tower(clip: nn.Module) -> nn.Module | None:
    """The module that holds the text layers: ``CLIP`` itself, or the ``text`` of a ``CustomTextCLIP``."""
    if isinstance(clip, CLIP):
        return clip
    text = clip.text if isinstance(clip, CustomTextCLIP) else None
    return text if isinstance(text, TextTransformer) else None


def _pool_type(tower: nn.Module) -> str:
    return tower.text_pool_type if isinstance(tower, CLIP) else tower.pool_type
