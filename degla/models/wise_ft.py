"""Weights on the line between two models (WiSE-FT, Wortsman et al. 2022)."""

from collections.abc import Mapping

from torch import Tensor

from degla.errors import CheckpointError


def interpolate_weights(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return ``(1 - share) * base + share * tuned`` by name; integer tensors are those of ``tuned``.

    Args:
        base: state dict of the model that fine-tuning began with.
        tuned: state dict of the fine-tuned model.
        share: 0 gives ``base``, 1 gives ``tuned``.

    Raises:
        CheckpointError: the two state dicts have different names.
    """
    if base.keys() != tuned.keys():
        name = min(base.keys() ^ tuned.keys())
        raise CheckpointError(
            f"the two sets of weights are not of one architecture, because {name!r} is in one of them only; "
            "set model=... to the architecture that was fine-tuned"
        )
    return {
        name: base[name].lerp(value, share) if value.is_floating_point() else value for name, value in tuned.items()
    }
