"""The authors' optimizer and schedules, with the values of the released script and open_clip's conventions."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from degla.bounds import Bound, bounded, is_number, number, share, whole
from degla.training.depth import count_blocks, position


def _are_betas(value: Any) -> bool:
    return len(value) == 2 and all(is_number(beta) and 0 <= beta < 1 for beta in value)


_BETAS = Bound(_are_betas, "two numbers from 0 to below 1, such as [0.9, 0.98]")
_DECAY = Bound(lambda value: is_number(value) and 0 < value <= 1, "a number above 0 and at most 1")


@bounded("optimizer")
def adamw(
    model: nn.Module,
    lr: Annotated[float, number(0)] = 1e-6,
    weight_decay: Annotated[float, number(0)] = 0.1,
    betas: Annotated[tuple[float, float] | list[float], _BETAS] = (0.9, 0.98),
    eps: Annotated[float, number(0)] = 1e-6,
    fused: bool = True,
    layer_decay: Annotated[float, _DECAY] | None = None,
    image_lr: Annotated[float, number(0)] | None = None,
    text_lr: Annotated[float, number(0)] | None = None,
    logit_scale_lr: Annotated[float, number(0)] | None = None,
) -> AdamW:
    """Make an AdamW that does not decay norms, biases and the logit scale.

    Parameters of one tower, one depth and one weight decay form a group where one of the last four settings is set.

    Args:
        model: its parameters that require a gradient are optimised.
        lr: peak learning rate.
        weight_decay: weight decay of matrices and embeddings.
        betas: decay rates of the two moments.
        eps: added to the denominator.
        fused: update all parameters in one kernel instead of about ten; the result differs by rounding only.
        layer_decay: factor of the learning rate from each layer of a tower to the layer before it, such as 0.75; what
            comes after the last block keeps the full rate. None is 1.
        image_lr: peak learning rate of the image tower; None is ``lr``.
        text_lr: peak learning rate of the text tower; None is ``lr``.
        logit_scale_lr: peak learning rate of the logit scale; None is ``lr``.

    Raises:
        ConfigError: a value is out of its range.
    """
    rates = {"image": image_lr, "text": text_lr, "logit_scale": logit_scale_lr}
    beta1, beta2 = betas
    if layer_decay is None and all(rate is None for rate in rates.values()):
        groups = _groups(model, weight_decay)
    else:
        tower_rates = {tower: lr if rate is None else rate for tower, rate in rates.items()}
        groups = _groups_by_depth(model, weight_decay, tower_rates, 1.0 if layer_decay is None else layer_decay)
    return AdamW(groups, lr=lr, betas=(beta1, beta2), eps=eps, fused=fused)


def _is_decayed(name: str, parameter: nn.Parameter) -> bool:
    return not (parameter.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trained parameters in two groups, without and with weight decay."""
    plain: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (decayed if _is_decayed(name, parameter) else plain).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": plain, "weight_decay": 0.0},
        {"params": decayed, "weight_decay": weight_decay},
    ]
    return [group for group in groups if group["params"]]


def _groups_by_depth(
    model: nn.Module, weight_decay: float, rates: Mapping[str, float], layer_decay: float
) -> list[dict[str, Any]]:
    """Return the trained parameters in groups of one tower, one depth and one weight decay, each with its rate.

    The names of the groups are the names of their curves. Without a decay per layer a tower is one layer.
    """
    named = dict(model.named_parameters())
    num_blocks = count_blocks(named)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in named.items():
        if not parameter.requires_grad:
            continue
        tower, depth = position(name)
        last = num_blocks[tower] + 1
        depth = last if depth is None or layer_decay == 1 else depth
        is_decayed = _is_decayed(name, parameter)
        layer = tower if layer_decay == 1 or tower == "logit_scale" else f"{tower}_{depth}"
        label = layer if is_decayed or tower == "logit_scale" else f"{layer}_no_decay"
        group = {
            "name": label,
            "params": [],
            "lr": rates[tower] * layer_decay ** (last - depth),
            "weight_decay": weight_decay if is_decayed else 0.0,
        }
        groups.setdefault(label, group)["params"].append(parameter)
    return list(groups.values())


class TrainedBytes(NamedTuple):
    """Memory that training takes beside weights and activations."""

    gradients: int
    optimizer: int  # the two moments of AdamW


def trained_bytes(parameters: Iterable[nn.Parameter], everything: bool = False) -> TrainedBytes:
    """Return the bytes of gradients and of AdamW's moments, both in the dtype of the parameters.

    Args:
        parameters: of a model.
        everything: count frozen parameters as if they were trained.
    """
    trained = (parameter for parameter in parameters if parameter.requires_grad or everything)
    size = sum(parameter.numel() * parameter.element_size() for parameter in trained)
    return TrainedBytes(size, 2 * size)


def megabytes(size: int) -> str:
    """Return a number of bytes in megabytes, with three digits.

    Args:
        size: bytes.
    """
    return f"{float(f'{size / 1e6:.3g}'):,g} MB"


@bounded("scheduler")
def cosine(
    optimizer: Optimizer,
    total_steps: int,
    warmup_steps: Annotated[int, whole(0)] = 50,
    final_fraction: Annotated[float, share()] = 0.0,
) -> LambdaLR:
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


@bounded("scheduler")
def constant(optimizer: Optimizer, total_steps: int, warmup_steps: Annotated[int, whole(0)] = 0) -> LambdaLR:
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
