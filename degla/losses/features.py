"""The input of an objective, ``Features``, and its output, ``LossTerms``."""

from typing import NamedTuple

from torch import Tensor


class Features(NamedTuple):
    """Unit-norm float32 embeddings of one batch on one rank.

    ``negatives`` has K = 0 where the objective reads no negatives. Read and build it by field name: code that relies
    on the order of the fields would train on the wrong tensors, without an error, if that order changed.
    """

    image: Tensor  # (B, D)
    text: Tensor  # (B, D)
    negatives: Tensor  # (B, K, D)
    negative_mask: Tensor  # (B, K) bool, True where a negative exists
    logit_scale: Tensor  # () the multiplier, already exponentiated


class LossTerms(NamedTuple):
    """The loss that is minimised, ``total``, and its unweighted parts for the log, ``terms``.

    The mean of each value over the ranks is its value on the global batch.
    """

    total: Tensor  # ()
    terms: dict[str, Tensor]  # name -> ()
