"""Features to accuracies; a tie is lost."""

from typing import NamedTuple

import torch
from torch import Tensor


class Score(NamedTuple):
    """Accuracy in [0, 1] over ``num_items`` items, of which ``ties`` were lost by an equal score."""

    accuracy: float
    num_items: int
    ties: int


def choice_score(image_features: Tensor, caption_features: Tensor, foil_features: Tensor) -> Score:
    """How often a picture is closer to its caption than to every one of its foils.

    Args:
        image_features: ``(N, D)``, unit norm.
        caption_features: ``(N, D)``, unit norm.
        foil_features: ``(N, F, D)``, unit norm.
    """
    true = torch.einsum("nd,nd->n", image_features, caption_features)
    best_foil = torch.einsum("nd,nfd->nf", image_features, foil_features).amax(1)
    # Equal texts give equal features, but not to the last bit when summed in another order.
    ties = (true - best_foil).abs() <= 1e-6
    right = (true > best_foil) & ~ties
    return Score(right.double().mean().item(), len(true), int(ties.sum()))


def zero_shot_score(image_features: Tensor, labels: Tensor, prompt_features: Tensor) -> Score:
    """Top-1 accuracy of classification by prompts (Radford et al. 2021, section 3.1.4).

    Args:
        image_features: ``(N, D)``, unit norm.
        labels: ``(N,)`` class numbers.
        prompt_features: ``(C, P, D)``, unit norm: P prompts a class, averaged and normalised again.
    """
    classifier = torch.nn.functional.normalize(prompt_features.mean(1), dim=-1)
    scores = image_features @ classifier.T
    own = scores.gather(1, labels[:, None]).squeeze(1)
    best_other = scores.scatter(1, labels[:, None], float("-inf")).amax(1)
    ties = (own - best_other).abs() <= 1e-6
    return Score(((own > best_other) & ~ties).double().mean().item(), len(labels), int(ties.sum()))
