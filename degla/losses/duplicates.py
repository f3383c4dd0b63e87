"""The setting ``duplicates`` of the terms that contrast samples with each other."""

from typing import Any, Literal

import torch

from degla.errors import ConfigError
from degla.losses.cross_entropy import Duplicates
from degla.losses.features import Features
from degla.losses.term import field

_TREATMENTS: tuple[Literal["off", "mask", "count"], ...] = ("off", "mask", "count")


def check_duplicates(term: str, duplicates: Any) -> Literal["off", "mask", "count"]:
    """Return the treatment of duplicates that a term is set to.

    Args:
        term: its name in the config.
        duplicates: the setting. YAML reads an unquoted ``off`` as False.

    Raises:
        ConfigError: it is not ``off``, ``mask`` or ``count``.
    """
    for treatment in _TREATMENTS:
        if duplicates == treatment or (duplicates is False and treatment == "off"):
            return treatment
    raise ConfigError(f"objective.terms.{term}.duplicates={duplicates} must be off, mask or count")


def duplicates_of(features: Features, treatment: Literal["off", "mask", "count"]) -> Duplicates | None:
    """Return which samples have the same image or the same caption; None where that does not matter.

    Args:
        features: of N samples, gathered over the ranks.
        treatment: what to do with them.
    """
    if treatment == "off":
        return None
    return Duplicates(ids=torch.stack([field(features, "image_ids"), field(features, "text_ids")]), treatment=treatment)
