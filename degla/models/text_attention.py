"""Attention of packed texts: over the prefix tree, or over padded groups without kernels that are planned per shape.

Shapes: T states of packed texts, R distinct texts, N queries, H heads, E width of a head.
"""

import contextlib
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from degla.compat.torch import allow_recompiles
from degla.models.packing import PackedTexts
from degla.models.prefix_tree import BLOCK_SIZE, IntervalMask

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask  # its import takes most of a second

# cuDNN builds a plan, which takes tens of milliseconds, for every new shape, and ragged texts have new shapes in almost
# every step.
_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_SMALLEST_HEAD = 16  # the width that FlexAttention's kernels need
# Versions of a compiled function: with and without gradient, for all states and for the last ones, and each of these
# once more where a length is 1.
MAX_VERSIONS = 32


class TreeTexts(NamedTuple):
    """Packed texts whose attention follows the prefix tree, on their device.

    A mask is a ``BlockMask`` for FlexAttention, or a dense bool tensor.
    """

    last: Tensor  # (R,) int64 index of the state at which each text is read
    states: "Tensor | BlockMask"  # (T, T)
    texts: "Tensor | BlockMask"  # (R, T)


def attention_layout(texts: PackedTexts, dtype: torch.dtype, head_width: int) -> PackedTexts | TreeTexts:
    """Return what the blocks of a text tower need to attend: the texts themselves, or the masks of their prefix tree.

    Texts that were packed without a tree are attended in padded groups. On a GPU a tree's mask is a ``BlockMask``. It
    is a dense one where FlexAttention has no kernel, or no backward pass: on the CPU, in float64, and for narrow heads.

    Args:
        texts: on the device of the tower.
        dtype: of the tower's weights.
        head_width: E.
    """
    if texts.tree is None:
        return texts
    has_kernel = texts.last.device.type == "cuda" and dtype != torch.float64 and head_width >= _SMALLEST_HEAD
    make = block_mask if has_kernel else dense_mask
    return TreeTexts(
        last=texts.last,
        states=make(texts.tree.states, len(texts.tokens)),
        texts=make(texts.tree.texts, len(texts.last)),
    )


def dense_mask(mask: IntervalMask, num_queries: int) -> Tensor:
    """Return a mask as an ``(N, T)`` bool tensor.

    Args:
        mask: with T keys.
        num_queries: N.
    """
    first, end = mask.readers.unbind()
    queries = torch.arange(num_queries, device=first.device)[:, None]
    return (first <= queries) & (queries < end)


def block_mask(mask: IntervalMask, num_queries: int) -> "BlockMask":
    """Return a mask as FlexAttention takes it.

    ``create_block_mask`` would evaluate all N x T pairs on the device, which is more work than the attention itself.

    Args:
        mask: with T keys.
        num_queries: N.
    """
    from torch.nn.attention.flex_attention import BlockMask

    first, end = mask.readers.unbind()

    def is_read(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (first[key] <= query) & (query < end[key])

    lists = {name: getattr(mask, name) for name in ("num_keys", "keys", "num_queries", "queries")}
    partial, full = ({name: tensor[kind][None, None] for name, tensor in lists.items()} for kind in (0, 1))
    return BlockMask(
        seq_lengths=(num_queries, len(first)),
        kv_num_blocks=partial["num_keys"],
        kv_indices=partial["keys"],
        full_kv_num_blocks=full["num_keys"],
        full_kv_indices=full["keys"],
        q_num_blocks=partial["num_queries"],
        q_indices=partial["queries"],
        full_q_num_blocks=full["num_queries"],
        full_q_indices=full["queries"],
        BLOCK_SIZE=(BLOCK_SIZE, BLOCK_SIZE),
        mask_mod=is_read,
    )


def attend(query: Tensor, key: Tensor, value: Tensor, mask: "Tensor | BlockMask") -> Tensor:
    """Return the attention of a prefix tree.

    Args:
        query: ``(1, H, N, E)``.
        key: ``(1, H, T, E)``.
        value: ``(1, H, T, E)``.
        mask: ``(N, T)``.

    Returns:
        ``(1, H, N, E)``.
    """
    if isinstance(mask, Tensor):
        with without_plans(query.device):
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    if torch.compiler.is_compiling():  # it becomes part of the compiled block
        from torch.nn.attention.flex_attention import flex_attention
    else:
        flex_attention = _compiled_flex_attention()
    attended: Tensor = flex_attention(query, key, value, block_mask=mask)
    return attended


def without_plans(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which attention on a GPU uses no kernel that is planned anew for each shape.

    Args:
        device: of the states; on the CPU the context changes nothing.
    """
    return sdpa_kernel(_KERNELS) if device.type == "cuda" else contextlib.nullcontext()


@functools.cache
def _compiled_flex_attention() -> Any:
    """Return FlexAttention, compiled once for any number of states."""
    from torch.nn.attention.flex_attention import flex_attention

    allow_recompiles(MAX_VERSIONS)
    return torch.compile(flex_attention, dynamic=True)
