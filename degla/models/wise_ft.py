"""Weights between two models (WiSE-FT, Wortsman et al. 2022)."""

from collections.abc import Mapping

from torch import Tensor


def interpolated(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """``(1 - share) * base + share * tuned``, by name; what is not a floating-point number is taken from ``tuned``.

    Args:
        base: state dict of the model that fine-tuning began with.
        tuned: state dict of the fine-tuned one.
        share: 0 gives ``base``, 1 gives ``tuned``.

    Raises:
        ValueError: the names differ.
    """
    if base.keys() != tuned.keys():
        odd = sorted(base.keys() ^ tuned.keys())
        raise ValueError(f"these are not the weights of one architecture: {odd[0]!r} is in one of them only")
    return {
        name: base[name].lerp(value, share) if value.is_floating_point() else value for name, value in tuned.items()
    }
