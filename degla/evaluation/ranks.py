"""The processes that share an evaluation."""

import os
from typing import NamedTuple

import torch


class Ranks(NamedTuple):
    """This process among those that share the work."""

    rank: int
    world_size: int
    device: str


def join_ranks(device: str) -> Ranks:
    """Join the process group that torchrun describes; without torchrun, this process is the only one.

    Args:
        device: ``cpu``, ``cuda``, or ``auto``: ``cuda`` where there is one.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1:
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    return Ranks(int(os.environ.get("RANK", "0")), world_size, device)


def leave_ranks(ranks: Ranks) -> None:
    """Leave the process group, where there is one."""
    if ranks.world_size > 1:
        torch.distributed.destroy_process_group()
