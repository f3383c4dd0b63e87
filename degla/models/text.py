"""Encoding texts with only the states that their features depend on.

Shapes: M texts, L tokens per text, D embedding.
"""

import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from degla.models.blocks import takes_packed_texts, text_tower
from degla.models.packing import PackedTexts, pack
from degla.models.text_attention import attention_layout


def is_causal(clip: CLIP | CustomTextCLIP) -> bool:
    """Return whether ``encode_text`` may leave out the positions after the end-of-text token.

    Two things must be true. The tower must be causal and read its feature at the end-of-text token, which excludes
    bidirectional towers (SigLIP, Hugging Face text models) and towers that append a class token. And its blocks must be
    those of ``swap_block_classes_``, because open_clip's own cannot compute packed texts.

    Args:
        clip: a model that open_clip has built.
    """
    tower = text_tower(clip)
    return tower is not None and _reads_end_of_text(tower) and takes_packed_texts(tower)


def encode_text(clip: CLIP | CustomTextCLIP, texts: Tensor | PackedTexts) -> Tensor:
    """Encode texts to features that are not normalised yet.

    A causal tower computes each distinct beginning once, and nothing after the end of a text. Features and gradients
    equal open_clip's (to 1e-5 in float32).

    Args:
        clip: a model that ``load_clip`` has built.
        texts: packed, or ``(M, L)`` int64, L at most the context length. Tokens for a causal tower are packed first,
            which waits for the device they are on.

    Returns:
        ``(M, D)`` in the dtype of the tower.

    Raises:
        ValueError: ``texts`` is packed or shorter than the context, and the tower is not causal.
    """
    tower = text_tower(clip)
    if tower is None or not is_causal(clip):
        if isinstance(texts, PackedTexts) or texts.shape[1] != clip.context_length:
            length = len(texts.tokens) if isinstance(texts, PackedTexts) else texts.shape[1]
            raise ValueError(f"this text tower needs all {clip.context_length} positions, got {length}")
        features: Tensor = clip.encode_text(texts)
        return features
    if isinstance(texts, Tensor):
        texts = pack_tokens(clip, texts)
    return encode_packed(clip, texts)[texts.texts]


def encode_packed(clip: CLIP | CustomTextCLIP, texts: PackedTexts) -> Tensor:
    """Run a causal text tower on packed texts.

    Args:
        clip: a model for which ``is_causal`` is True.
        texts: R distinct texts with T states.

    Returns:
        ``(R, D)``, the features of the distinct texts; or ``(T, D)``, those of all states, where the last block
        computes all of them.
    """
    tower = text_tower(clip)
    assert tower is not None
    x: Tensor = tower.token_embedding(texts.tokens) + F.embedding(texts.positions, tower.positional_embedding)
    attention = tower.transformer.resblocks[0].attn
    layout = attention_layout(texts, x.dtype, attention.embed_dim // attention.num_heads)
    x = tower.ln_final(tower.transformer(x.to(tower.transformer.get_cast_dtype()), attn_mask=layout))
    if isinstance(tower.text_projection, nn.Linear):
        x = tower.text_projection(x)
    elif tower.text_projection is not None:
        x = x @ tower.text_projection
    return x


def pack_tokens(clip: CLIP | CustomTextCLIP, tokens: Tensor) -> PackedTexts:
    """Pack tokens for a causal tower, which waits for the device they are on.

    Args:
        clip: a model for which ``is_causal`` is True.
        tokens: ``(M, L)`` int64.
    """
    return pack(tokens, end_positions(tokens, pooled_token(clip)) + 1).to(tokens.device)


def end_positions(tokens: Tensor, eos_id: int | None) -> Tensor:
    """Return the position of each text's end-of-text token.

    Args:
        tokens: ``(M, L)`` int64.
        eos_id: id of the token; None where it is the largest id of each text, as in OpenAI's vocabulary.

    Returns:
        ``(M,)`` int64.
    """
    return tokens.argmax(-1) if eos_id is None else (tokens == eos_id).int().argmax(-1)


def pooled_token(clip: CLIP | CustomTextCLIP) -> int | None:
    """Return the id of the token at which a causal tower reads its feature.

    Args:
        clip: a model for which ``is_causal`` is True.

    Returns:
        None where it is the largest id of a text.
    """
    tower = text_tower(clip)
    if tower is None or _pool_type(tower) == "argmax":
        return None
    return int(tower.text_eos_id if hasattr(tower, "text_eos_id") else tower.eos_id)


def _reads_end_of_text(tower: CLIP | TextTransformer) -> bool:
    if getattr(tower, "cls_emb", None) is not None or getattr(tower, "use_pad_mask", False):
        return False
    return tower.attn_mask is not None and _pool_type(tower) in ("argmax", "eos")


def _pool_type(tower: CLIP | TextTransformer) -> str:
    return str(tower.text_pool_type if hasattr(tower, "text_pool_type") else tower.pool_type)
