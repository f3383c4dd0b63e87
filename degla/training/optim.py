"""The authors' optimizer and schedules, with the values of the released script and open_clip's conventions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from degla.errors import ConfigError


def adamw(
    model: nn.Module,
    lr: float = 1e-6,
    weight_decay: float = 0.1,
    betas: tuple[float, float] | list[float] = (0.9, 0.98),
    eps: float = 1e-6,
    fused: bool = True,
) -> AdamW:
    """Make an AdamW that does not decay norms, biases and the logit scale.

    Args:
        model: its parameters that require a gradient are optimised.
        lr: peak learning rate.
        weight_decay: weight decay of matrices and embeddings.
        betas: decay rates of the two moments.
        eps: added to the denominator.
        fused: update all parameters in one kernel instead of about ten; the result differs by rounding only.

    Raises:
        ConfigError: a value is out of its range.
    """
    for name, value in {"lr": lr, "weight_decay": weight_decay, "eps": eps}.items():
        if not value >= 0:
            raise ConfigError(f"optimizer.{name}={value} must be 0 or more")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ConfigError(f"optimizer.betas={list(betas)} must be two numbers from 0 to below 1, such as [0.9, 0.98]")
    plain: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            no_decay = parameter.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name
            (plain if no_decay else decayed).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": plain, "weight_decay": 0.0},
        {"params": decayed, "weight_decay": weight_decay},
    ]
    beta1, beta2 = betas
    return AdamW([group for group in groups if group["params"]], lr=lr, betas=(beta1, beta2), eps=eps, fused=fused)


def cosine(optimizer: Optimizer, total_steps: int, warmup_steps: int = 50, final_fraction: float = 0.0) -> LambdaLR:
    """Schedule a linear warm-up, then a cosine down to ``final_fraction`` of the peak.

    Args:
        optimizer: its learning rate is the peak.
        total_steps: optimizer steps of the run.
        warmup_steps: optimizer steps of the warm-up; the first step already has ``lr / warmup_steps``.
        final_fraction: share of the peak at the end.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


def constant(optimizer: Optimizer, total_steps: int, warmup_steps: int = 0) -> LambdaLR:
    """Schedule a linear warm-up, then the peak learning rate to the end.

    Args:
        optimizer: its learning rate is the peak.
        total_steps: not used; every schedule takes it.
        warmup_steps: optimizer steps of the warm-up.
    """
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup_steps)))


def name_state(state: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return an optimizer's ``state_dict`` keyed by parameter names instead of numbers.

    The numbers depend on how parameters are grouped, and Lightning numbers them in another order under FSDP2. With
    names, one checkpoint fits every strategy.

    Args:
        state: ``state_dict`` keyed by numbers.
        names: parameter names in the order of the numbers.
    """
    return _replace_keys(state, dict(enumerate(names)))


def number_state(state: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return an optimizer's ``state_dict`` keyed by numbers again: the inverse of ``name_state``.

    Args:
        state: ``state_dict`` keyed by names.
        names: parameter names in the order of the numbers.
    """
    return _replace_keys(state, {name: number for number, name in enumerate(names)})


def _replace_keys(state: dict[str, Any], keys: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "state": {keys[key]: value for key, value in state["state"].items()},
        "param_groups": [
            {**group, "params": [keys[key] for key in group["params"]]} for group in state["param_groups"]
        ],
    }
