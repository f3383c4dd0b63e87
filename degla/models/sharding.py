"""FSDP2: which modules of a CLIP model are sharded together, and whether a model is sharded."""

from typing import TypeGuard

import torch
from open_clip.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from degla.models.clip import ClipModel


def shard(model: ClipModel, mesh: DeviceMesh, compute_dtype: torch.dtype) -> None:
    """Shard each transformer block, then the rest, in place.

    Args:
        model: student or teacher; both must be sharded alike, since the EMA pairs their shards.
        mesh: one-dimensional mesh of the data-parallel ranks.
        compute_dtype: dtype of the forward pass; parameters stay float32 and gradients are reduced in float32.
    """
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for module in model.modules():
        if _is_block(module):
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    for name in ("encode_image", "encode_text"):
        register_fsdp_forward_method(model, name)


def is_sharded(model: nn.Module) -> TypeGuard[FSDPModule]:
    """Return whether ``shard`` was applied to ``model``, so that its parameters are DTensors.

    Code that has a model should test for FSDP2 in no other way. The strategy's name says what the run
    intends, which is not yet true before the model is configured.

    Args:
        model: a model or one of its modules.
    """
    return isinstance(model, FSDPModule)


def _is_block(module: nn.Module) -> bool:
    return isinstance(module, ResidualAttentionBlock | CustomResidualAttentionBlock)
