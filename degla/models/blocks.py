"""Transformer blocks that compute only what is read: packed texts, and of the last block the pooled position.

They are open_clip's own blocks with another forward pass: the same parameters under the same names, so weights,
export, gradient checkpointing, FSDP2 and ``torch.compile`` work on them as on the originals.
"""

import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, TextTransformer, VisionTransformer
from torch import Tensor, nn

from degla.models.packing import PackedTexts


def compute_only_what_is_read(clip: nn.Module) -> None:
    """Give the towers of ``clip`` the blocks of this module, in place, where their features stay the same."""
    for module in clip.modules():
        if type(module) is QuickGELU:
            module.__class__ = SlimQuickGELU
    text = text_tower(clip)
    if text is not None and _is_plain(text.transformer.resblocks):
        for block in text.transformer.resblocks[:-1]:
            block.__class__ = PackedBlock
        text.transformer.resblocks[-1].__class__ = LastPackedBlock
    visual = clip.visual
    if isinstance(visual, VisionTransformer) and _is_plain(visual.transformer.resblocks):
        for block in visual.transformer.resblocks:
            block.__class__ = ImageBlock
        if visual.pool_type == "tok" and visual.attn_pool is None and not visual.output_tokens:
            visual.transformer.resblocks[-1].__class__ = ClassTokenBlock


def text_tower(clip: nn.Module) -> nn.Module | None:
    """The module that holds the text layers: ``CLIP`` itself, or the ``text`` of a ``CustomTextCLIP``."""
    if isinstance(clip, CLIP):
        return clip
    text = clip.text if isinstance(clip, CustomTextCLIP) else None
    return text if isinstance(text, TextTransformer) else None


class SlimQuickGELU(QuickGELU):
    """``x * sigmoid(1.702 x)``, keeping ``x`` alone for the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return _QuickGELU.apply(x)


class _QuickGELU(torch.autograd.Function):
    """By way of SiLU: it is ``silu(1.702 x) / 1.702``, and its slope is SiLU's at ``1.702 x``."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.silu((1.702 * x), inplace=True).mul_(1 / 1.702)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad, 1.702 * x)


class PackedBlock(ResidualAttentionBlock):
    """A block of a causal text tower that takes the states of ``PackedTexts``."""

    def forward(self, q_x: Tensor, k_x=None, v_x=None, attn_mask: Tensor | PackedTexts | None = None) -> Tensor:
        """``(T, W)`` states -> ``(T, W)``; with a mask instead of ``PackedTexts``, open_clip's own forward."""
        if not isinstance(attn_mask, PackedTexts):
            return super().forward(q_x, k_x, v_x, attn_mask)
        packed = attn_mask
        qkv = F.linear(self.ln_1(q_x), self.attn.in_proj_weight, self.attn.in_proj_bias)
        attended = []
        for group in packed.groups:
            q, k, v = _heads(_Gather.apply(qkv, group), 3, self.attn.num_heads)
            attended.append(_flat(F.scaled_dot_product_attention(q, k, v, is_causal=True)))
        return _rest(self, q_x, torch.cat(attended)[packed.source])


class LastPackedBlock(ResidualAttentionBlock):
    """The last such block: computes the states at which texts are read, and no others."""

    def forward(self, q_x: Tensor, k_x=None, v_x=None, attn_mask: Tensor | PackedTexts | None = None) -> Tensor:
        """``(T, W)`` states -> ``(R, W)``, a row for each distinct text."""
        if not isinstance(attn_mask, PackedTexts):
            return super().forward(q_x, k_x, v_x, attn_mask)
        packed = attn_mask
        queries, keys_values = _queries_apart(self.attn, self.ln_1(q_x), lambda x: x[packed.last])
        attended = []
        sizes = [len(group) for group in packed.groups]
        for group, query, lengths in zip(packed.groups, queries.split(sizes), packed.lengths.split(sizes), strict=True):
            (q,) = _heads(query[:, None], 1, self.attn.num_heads)
            k, v = _heads(_Gather.apply(keys_values, group), 2, self.attn.num_heads)
            inside = torch.arange(group.shape[1], device=group.device) < lengths[:, None]
            attended.append(_flat(F.scaled_dot_product_attention(q, k, v, attn_mask=inside[:, None, None])))
        return _rest(self, q_x[packed.last], torch.cat(attended))


class ImageBlock(ResidualAttentionBlock):
    """A block of an image tower, without the copies that ``nn.MultiheadAttention`` makes of queries and keys."""

    def forward(self, q_x: Tensor, k_x=None, v_x=None, attn_mask: Tensor | None = None) -> Tensor:
        """``(B, N, W)`` -> ``(B, N, W)``."""
        qkv = F.linear(self.ln_1(q_x), self.attn.in_proj_weight, self.attn.in_proj_bias)
        attended = F.scaled_dot_product_attention(*_heads(qkv, 3, self.attn.num_heads))
        return _rest(self, q_x, attended.transpose(1, 2).flatten(2))


class ClassTokenBlock(ResidualAttentionBlock):
    """The last block of an image tower that is read at its class token."""

    def forward(self, q_x: Tensor, k_x=None, v_x=None, attn_mask: Tensor | None = None) -> Tensor:
        """``(B, N, W)`` -> ``(B, 1, W)``."""
        queries, keys_values = _queries_apart(self.attn, self.ln_1(q_x), lambda x: x[:, :1])
        (q,) = _heads(queries, 1, self.attn.num_heads)
        k, v = _heads(keys_values, 2, self.attn.num_heads)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return _rest(self, q_x[:, :1], attended)


class _Gather(torch.autograd.Function):
    """Rows by number. What many texts share gets the sum of many gradients: summed in float32, in a fixed order."""

    @staticmethod
    def forward(ctx, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.num_rows = len(rows)
        return rows[index]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        wide = grad.float() if grad.dtype in (torch.float16, torch.bfloat16) else grad
        summed = torch.ops.aten.embedding_dense_backward(wide.contiguous(), index, ctx.num_rows, -1, False)
        return summed.to(grad.dtype), None


def _is_plain(blocks: nn.ModuleList) -> bool:
    """Whether these are open_clip's ordinary blocks, all of them, with the batch in front."""
    ordinary = all(type(block) is ResidualAttentionBlock and block.attn.batch_first for block in blocks)
    return len(blocks) > 0 and ordinary


def _queries_apart(attention: nn.MultiheadAttention, x: Tensor, pick) -> tuple[Tensor, Tensor]:
    """Queries of the picked positions, keys and values of all."""
    width = attention.embed_dim
    weights = attention.in_proj_weight.split([width, 2 * width])
    biases = attention.in_proj_bias.split([width, 2 * width])
    return F.linear(pick(x), weights[0], biases[0]), F.linear(x, weights[1], biases[1])


def _heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """``(B, N, parts * W)`` -> ``parts`` tensors ``(B, heads, N, W / heads)``."""
    return x.unflatten(-1, (parts, heads, -1)).permute(2, 0, 3, 1, 4).unbind()


def _flat(x: Tensor) -> Tensor:
    """``(B, heads, N, W / heads)`` -> ``(B * N, W)``."""
    return x.transpose(1, 2).reshape(-1, x.shape[1] * x.shape[3])


def _rest(block: ResidualAttentionBlock, x: Tensor, attended: Tensor) -> Tensor:
    """What a block does after attention."""
    x = x + block.ls_1(block.attn.out_proj(attended))
    return x + block.ls_2(block.mlp(block.ln_2(x)))
