"""The shipped objectives by weight, built as a run builds them."""

from typing import Any

from degla.cli.compose import compose_config
from degla.losses import Objective
from degla.training.build import build_objective


def _shipped(option: str, settings: dict[str, Any]) -> Objective:
    local_loss = settings.pop("local_loss", None)
    node = compose_config("train", {"objective": {"option": option, **settings}}).objective
    if local_loss is not None:
        node.local_loss = local_loss
    return build_objective(node)


def degla(**settings: Any) -> Objective:
    """Return ``objective=degla`` with other weights, such as ``igc=0.5``."""
    return _shipped("degla", settings)


def clip(**settings: Any) -> Objective:
    """Return ``objective=clip``."""
    return _shipped("clip", settings)


def released(**settings: Any) -> Objective:
    """Return ``objective=degla_released``."""
    return _shipped("degla_released", settings)


def ce_clip(**settings: Any) -> Objective:
    """Return ``objective=ce_clip``."""
    return _shipped("ce_clip", settings)
