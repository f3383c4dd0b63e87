"""Optimizer and schedule as the authors set them (released script; open_clip's conventions)."""

import math
from collections.abc import Sequence

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


def adamw(
    model: nn.Module,
    lr: float = 1e-6,
    weight_decay: float = 0.1,
    betas: tuple[float, float] | list[float] = (0.9, 0.98),
    eps: float = 1e-6,
    fused: bool = True,
) -> AdamW:
    """AdamW that does not decay norms, biases and the logit scale.

    Args:
        model: parameters that require a gradient are optimised.
        lr: peak learning rate.
        weight_decay: of matrices and embeddings.
        betas: decay rates of the moments.
        eps: added to the denominator.
        fused: one pass over the parameters instead of some ten; same result but for rounding.
    """
    plain, decayed = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            no_decay = parameter.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name
            (plain if no_decay else decayed).append(parameter)
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": weight_decay}]
    return AdamW([group for group in groups if group["params"]], lr=lr, betas=tuple(betas), eps=eps, fused=fused)


def cosine(optimizer: Optimizer, total_steps: int, warmup_steps: int = 50, final_fraction: float = 0.0) -> LambdaLR:
    """Linear warm-up, then a cosine down to ``final_fraction`` of the peak, by optimizer steps.

    Args:
        optimizer: whose learning rate is the peak.
        total_steps: optimizer steps of the run.
        warmup_steps: steps of the warm-up; the first step already has ``lr / warmup_steps``.
        final_fraction: share of the peak at the end.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


def constant(optimizer: Optimizer, total_steps: int, warmup_steps: int = 0) -> LambdaLR:
    """Linear warm-up, then the peak learning rate to the end.

    Args:
        optimizer: whose learning rate is the peak.
        total_steps: not used; every schedule takes it.
        warmup_steps: steps of the warm-up.
    """
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup_steps)))


def name_state(state: dict, names: Sequence[str]) -> dict:
    """An optimizer's ``state_dict`` with parameter names for numbers.

    Numbers depend on how parameters are grouped, and Lightning counts them in another order under FSDP2;
    names make one checkpoint fit every strategy.

    Args:
        state: ``state_dict`` keyed by numbers.
        names: name of each number.
    """
    return _rekeyed(state, dict(enumerate(names)))


def number_state(state: dict, names: Sequence[str]) -> dict:
    """The inverse of ``name_state``."""
    return _rekeyed(state, {name: number for number, name in enumerate(names)})


def _rekeyed(state: dict, keys: dict) -> dict:
    return {
        "state": {keys[key]: value for key, value in state["state"].items()},
        "param_groups": [
            {**group, "params": [keys[key] for key in group["params"]]} for group in state["param_groups"]
        ],
    }
