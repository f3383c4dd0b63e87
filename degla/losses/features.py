"""What an encoder hands to an objective, and what an objective hands back."""

from typing import NamedTuple

from torch import Tensor


class Features(NamedTuple):
    """Unit-norm float32 embeddings of one batch on one rank.

    ``negatives`` has K = 0 where the objective reads no negatives.
    """

    image: Tensor  # (B, D)
    text: Tensor  # (B, D)
    negatives: Tensor  # (B, K, D)
    negative_mask: Tensor  # (B, K) bool, True where a negative exists
    logit_scale: Tensor  # () the multiplier, already exponentiated


class LossTerms(NamedTuple):
    """``total`` is what is minimised; ``terms`` are its parts before their weights, for the log.

    The mean of either over the ranks is its value on the global batch.
    """

    total: Tensor  # ()
    terms: dict[str, Tensor]  # name -> ()
