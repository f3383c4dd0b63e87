"""Transformer blocks that skip states on which no feature depends.

Text blocks take ``PackedTexts`` or ``TreeTexts``, in which texts share their common beginnings and have no padding. The
last block of a tower computes only the position at which the feature is read.

Shapes: B images, N positions, W width, T states of packed texts, R distinct texts.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, TextTransformer, VisionTransformer
from torch import Tensor, nn

from degla.compat.torch import silu_backward, sum_rows
from degla.models.packing import PackedTexts
from degla.models.text_attention import TreeTexts, attend, without_plans

_BLOCK_PARTS = {"ln_1", "attn", "ls_1", "ln_2", "mlp", "ls_2"}  # what the forward passes of this module compute


def swap_block_classes_(clip: CLIP | CustomTextCLIP) -> None:
    """Assign the classes of this module to the blocks and QuickGELUs of ``clip``, in place, where features stay equal.

    Only ``__class__`` changes, that is, the forward pass. Building new blocks around the old parameters would add a
    level to the parameters' names or drop hooks. This way names, weights and hooks stay those of open_clip, so loading,
    export, gradient checkpointing, FSDP2 and ``torch.compile`` work as on the originals. Towers that are built
    differently keep open_clip's blocks. Code that relies on the new classes asks ``takes_packed_texts``.

    Args:
        clip: a model that open_clip has built.
    """
    for module in clip.modules():
        if type(module) is QuickGELU:
            module.__class__ = MemoryEfficientQuickGELU
    text = text_tower(clip)
    if text is not None and _are_plain(text.transformer.resblocks):
        for block in text.transformer.resblocks[:-1]:
            block.__class__ = PackedBlock
        text.transformer.resblocks[-1].__class__ = LastPackedBlock
    visual = clip.visual
    if isinstance(visual, VisionTransformer) and _are_plain(visual.transformer.resblocks):
        for block in visual.transformer.resblocks:
            block.__class__ = ImageBlock
        if visual.pool_type == "tok" and visual.attn_pool is None and not visual.output_tokens:
            visual.transformer.resblocks[-1].__class__ = ClassTokenBlock


def restore_block_classes_(clip: CLIP | CustomTextCLIP) -> None:
    """Undo ``swap_block_classes_``, in place, for exporters that trace open_clip's own blocks.

    Args:
        clip: a model that ``load_clip`` has built.
    """
    for module in clip.modules():
        if isinstance(module, MemoryEfficientQuickGELU):
            module.__class__ = QuickGELU
        elif isinstance(module, SwappedBlock):
            module.__class__ = ResidualAttentionBlock


def takes_packed_texts(tower: CLIP | TextTransformer) -> bool:
    """Return whether every block of a text tower is one of those that ``swap_block_classes_`` assigns.

    Args:
        tower: see ``text_tower``.
    """
    blocks = list(tower.transformer.resblocks)
    return len(blocks) > 0 and all(isinstance(block, PackedBlock | LastPackedBlock) for block in blocks)


def text_tower(clip: CLIP | CustomTextCLIP) -> CLIP | TextTransformer | None:
    """Return the module that holds the text layers: ``CLIP`` itself, or the ``text`` of a ``CustomTextCLIP``.

    Args:
        clip: a model that open_clip has built.

    Returns:
        None where the text tower is not open_clip's own transformer.
    """
    if isinstance(clip, CLIP):
        return clip
    text = clip.text if isinstance(clip, CustomTextCLIP) else None
    return text if isinstance(text, TextTransformer) else None


class AdaptedProjection(nn.Module):
    """Base of attention modules that add a product of two low-rank matrices to their stacked input projection.

    Shapes: r rank. A block's attention is either such a module or a plain ``nn.MultiheadAttention``.
    """

    embed_dim: int
    num_heads: int
    in_proj_weight: Tensor  # (3 * W, W)
    in_proj_bias: Tensor  # (3 * W,)

    def reduce(self, x: Tensor) -> Tensor:
        """Multiply ``(..., W)`` states with the first matrix, to ``(..., r)``."""
        raise NotImplementedError

    @property
    def expansion(self) -> Tensor:
        """The second matrix, ``(3 * W, r)``."""
        raise NotImplementedError


class MemoryEfficientQuickGELU(QuickGELU):  # type: ignore[misc]  # open_clip ships no types
    """``x * sigmoid(1.702 x)`` that saves only ``x`` for the backward pass; open_clip's saves three tensors."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation to ``x`` of any shape ``(...)``."""
        activated: Tensor = _QuickGELU.apply(x)
        return activated


class _QuickGELU(torch.autograd.Function):
    """QuickGELU as ``silu(1.702 x) / 1.702``; its slope at ``x`` is SiLU's at ``1.702 x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.silu((1.702 * x), inplace=True).mul_(1 / 1.702)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return silu_backward(grad, 1.702 * x)


class SwappedBlock(ResidualAttentionBlock):  # type: ignore[misc]  # open_clip ships no types
    """Base of the blocks below, whose ``forward`` has the arguments of open_clip's block."""

    def forward(
        self,
        q_x: Tensor,
        k_x: Tensor | None = None,
        v_x: Tensor | None = None,
        attn_mask: Tensor | PackedTexts | TreeTexts | None = None,
    ) -> Tensor:
        """Compute the block as open_clip does.

        Args:
            q_x: states, ``(B, N, W)`` or packed ``(T, W)``.
            k_x: None, because these blocks are not used for cross-attention.
            v_x: None, for the same reason.
            attn_mask: ``(N, N)`` mask, or the texts to which packed states belong. open_clip's ``Transformer`` passes
                this argument on to its blocks, so no forward pass of a tower had to be rewritten.

        Returns:
            States of the shape of ``q_x``; the last block of a tower returns fewer.
        """
        states: Tensor = super().forward(q_x, k_x, v_x, attn_mask)
        return states

    def _after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """Compute the part after attention: output projection, residuals and MLP."""
        x = x + self.ls_1(self.attn.out_proj(attended))
        states: Tensor = x + self.ls_2(self.mlp(self.ln_2(x)))
        return states


class PackedBlock(SwappedBlock):
    """A block of a causal text tower that takes the states of ``PackedTexts``."""

    def forward(
        self,
        q_x: Tensor,
        k_x: Tensor | None = None,
        v_x: Tensor | None = None,
        attn_mask: Tensor | PackedTexts | TreeTexts | None = None,
    ) -> Tensor:
        """Compute ``(T, W)`` states from ``(T, W)`` states; with a mask in place of ``PackedTexts``, as open_clip."""
        if not isinstance(attn_mask, PackedTexts | TreeTexts):
            return super().forward(q_x, k_x, v_x, attn_mask)
        qkv = _project(self.attn, self.ln_1(q_x))
        if isinstance(attn_mask, TreeTexts):
            q, k, v = _split_heads(qkv[None], 3, self.attn.num_heads)
            return self._after_attention(q_x, _merge_heads(attend(q, k, v, attn_mask.states)))
        attended = []
        with without_plans(q_x.device):
            for group in attn_mask.groups:
                q, k, v = _split_heads(_Gather.apply(qkv, group), 3, self.attn.num_heads)
                attended.append(_merge_heads(F.scaled_dot_product_attention(q, k, v, is_causal=True)))
        return self._after_attention(q_x, torch.cat(attended)[attn_mask.source])


class LastPackedBlock(SwappedBlock):
    """The last block of such a tower, which computes only the states at which texts are read."""

    def forward(
        self,
        q_x: Tensor,
        k_x: Tensor | None = None,
        v_x: Tensor | None = None,
        attn_mask: Tensor | PackedTexts | TreeTexts | None = None,
    ) -> Tensor:
        """Compute ``(R, W)`` states, one per distinct text, from ``(T, W)`` states."""
        if not isinstance(attn_mask, PackedTexts | TreeTexts):
            return super().forward(q_x, k_x, v_x, attn_mask)
        packed = attn_mask
        queries, keys_values = _project_separately(self.attn, self.ln_1(q_x), lambda x: x[packed.last])
        if isinstance(packed, TreeTexts):
            (q,) = _split_heads(queries[None], 1, self.attn.num_heads)
            k, v = _split_heads(keys_values[None], 2, self.attn.num_heads)
            return self._after_attention(q_x[packed.last], _merge_heads(attend(q, k, v, packed.texts)))
        attended = []
        sizes = [len(group) for group in packed.groups]
        of_groups = zip(packed.groups, torch.split(queries, sizes), torch.split(packed.lengths, sizes), strict=True)
        with without_plans(q_x.device):
            for group, query, lengths in of_groups:
                (q,) = _split_heads(query[:, None], 1, self.attn.num_heads)
                k, v = _split_heads(_Gather.apply(keys_values, group), 2, self.attn.num_heads)
                inside = torch.arange(group.shape[1], device=group.device) < lengths[:, None]
                attended.append(_merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=inside[:, None, None])))
        return self._after_attention(q_x[packed.last], torch.cat(attended))


class ImageBlock(SwappedBlock):
    """A block of an image tower, without the copies of queries and keys that ``nn.MultiheadAttention`` makes."""

    def forward(
        self,
        q_x: Tensor,
        k_x: Tensor | None = None,
        v_x: Tensor | None = None,
        attn_mask: Tensor | PackedTexts | TreeTexts | None = None,
    ) -> Tensor:
        """Compute ``(B, N, W)`` states from ``(B, N, W)`` states."""
        q, k, v = _split_heads(_project(self.attn, self.ln_1(q_x)), 3, self.attn.num_heads)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self._after_attention(q_x, attended.transpose(1, 2).flatten(2))


class ClassTokenBlock(SwappedBlock):
    """The last block of an image tower whose feature is read at its class token."""

    def forward(
        self,
        q_x: Tensor,
        k_x: Tensor | None = None,
        v_x: Tensor | None = None,
        attn_mask: Tensor | PackedTexts | TreeTexts | None = None,
    ) -> Tensor:
        """Compute the ``(B, 1, W)`` states of the class token from ``(B, N, W)`` states."""
        queries, keys_values = _project_separately(self.attn, self.ln_1(q_x), lambda x: x[:, :1])
        (q,) = _split_heads(queries, 1, self.attn.num_heads)
        k, v = _split_heads(keys_values, 2, self.attn.num_heads)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self._after_attention(q_x[:, :1], attended)


class _Gather(torch.autograd.Function):
    """Rows by index, with a gradient that is summed in float32 and in a fixed order.

    A state that many texts share gets the sum of many gradients. Plain indexing would add them in half precision, where
    a sum stops growing after a few hundred equal parts, and in an order that changes from run to run.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.num_rows = len(rows)
        return rows[index]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        wide = grad.float() if grad.dtype in (torch.float16, torch.bfloat16) else grad
        return sum_rows(wide.contiguous(), index, ctx.num_rows).to(grad.dtype), None


def _are_plain(blocks: nn.ModuleList) -> bool:
    """Return whether all blocks are open_clip's ordinary ones, with the batch first and no part we do not compute."""
    return len(blocks) > 0 and all(
        type(block) is ResidualAttentionBlock
        and isinstance(block.attn, nn.MultiheadAttention)
        and block.attn.batch_first
        and {name for name, _ in block.named_children()} == _BLOCK_PARTS
        for block in blocks
    )


def _project(attention: nn.MultiheadAttention | AdaptedProjection, x: Tensor) -> Tensor:
    """Return the queries, keys and values of ``(..., W)`` states, ``(..., 3 * W)``."""
    projected = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    if isinstance(attention, AdaptedProjection):
        projected = projected + F.linear(attention.reduce(x), attention.expansion)
    return projected


def _project_separately(
    attention: nn.MultiheadAttention | AdaptedProjection, x: Tensor, pick: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the queries of the picked positions, and the keys and values of all positions."""
    sizes = [attention.embed_dim, 2 * attention.embed_dim]
    weights = torch.split(attention.in_proj_weight, sizes)
    biases = torch.split(attention.in_proj_bias, sizes)
    queries, keys_values = F.linear(pick(x), weights[0], biases[0]), F.linear(x, weights[1], biases[1])
    if isinstance(attention, AdaptedProjection):
        reduced = attention.reduce(x)
        expansions = torch.split(attention.expansion, sizes)
        queries = queries + F.linear(pick(reduced), expansions[0])
        keys_values = keys_values + F.linear(reduced, expansions[1])
    return queries, keys_values


def _split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """Split ``(B, N, parts * W)`` into ``parts`` tensors of shape ``(B, heads, N, W / heads)``."""
    return torch.unflatten(x, -1, (parts, heads, -1)).permute(2, 0, 3, 1, 4).unbind()


def _merge_heads(x: Tensor) -> Tensor:
    """Reshape ``(B, heads, N, W / heads)`` to ``(B * N, W)``."""
    return x.transpose(1, 2).reshape(-1, x.shape[1] * x.shape[3])
