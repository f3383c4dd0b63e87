"""Compute margins: the score of the correct answer minus that of the best wrong one; a tie counts as wrong.

N items, C captions or classes, P prompts, D embedding.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

# Equal texts give equal features, but their products differ in the last bit when summed in another order.
TIE = 1e-6

Ties = Literal["lost", "original"]


def choice_margins(image_features: Tensor, caption_features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosine of each image with its caption, minus that with the best of its wrong captions.

    Args:
        image_features: ``(N, D)``, float32, unit norm.
        caption_features: ``(N, C, D)``, unit norm, the correct one first.

    Returns:
        ``(N,)`` margins, and ``(N,)`` int64 indices of the best wrong captions, from 1 on.
    """
    scores = torch.einsum("nd,ncd->nc", image_features.float(), caption_features.float())
    best = scores[:, 1:].max(1)
    return scores[:, 0] - best.values, best.indices + 1


def class_margins(
    image_features: Tensor, labels: Tensor, classifier: Tensor, names: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the cosine of each image with its class, minus that with the best other class.

    ImageNet has two classes called "missile" and two called "sunglasses". Their scores are the same for any model.
    Of two such classes the first wins, as with an argmax.

    Args:
        image_features: ``(N, D)``, unit norm.
        labels: ``(N,)`` class indices.
        classifier: ``(C, D)``, unit norm, from ``prompt_classifier``.
        names: ``(C,)`` equal numbers for classes with the same name; None where all names differ.

    Returns:
        ``(N,)`` margins, and ``(N,)`` int64 indices of the best other classes.
    """
    scores = image_features.float() @ classifier.T.float()
    own = scores.gather(1, labels[:, None]).squeeze(1)
    rivals = scores.scatter(1, labels[:, None], float("-inf"))
    if names is not None:
        later = torch.arange(len(names))[None] > labels[:, None]
        rivals = rivals.masked_fill((names[None] == names[labels][:, None]) & later, float("-inf"))
    best = rivals.max(1)
    return own - best.values, best.indices


def prompt_classifier(prompt_features: Tensor) -> Tensor:
    """Return one vector per class: the normalized mean of its prompts (Radford et al. 2021, section 3.1.4).

    Args:
        prompt_features: ``(C, P, D)``, unit norm.

    Returns:
        ``(C, D)``, unit norm.
    """
    return F.normalize(prompt_features.mean(1), dim=-1)


def correct_and_tied(margins: Tensor, ties_are_correct: bool = False) -> tuple[Tensor, Tensor]:
    """Decide which margins count as correct answers, and which are ties.

    Args:
        margins: ``(N,)``.
        ties_are_correct: count a tie as correct, as an argmax with the correct answer first does.

    Returns:
        ``(N,)`` bool correct, and ``(N,)`` bool tied.
    """
    tied = margins.abs() <= TIE
    return ((margins > 0) & ~tied) | (tied & ties_are_correct), tied


def retrieval_ranks(queries: Tensor, gallery: Tensor, owners: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Count the wrong gallery entries that score as high as the best correct one, or higher.

    A wrong entry that ties with the correct one is ranked before it, so a constant encoder finds nothing.

    Args:
        queries: ``(Q, D)``, unit norm.
        gallery: ``(G, D)``, unit norm.
        owners: ``(Q,)`` id of what each query looks for.
        targets: ``(G,)`` id of each entry; an entry is correct where the ids are equal.

    Returns:
        ``(Q,)`` int64 ranks from 0, and ``(Q,)`` margins against the best wrong entry.
    """
    ranks, margins = [], []
    for start in range(0, len(queries), 1024):
        scores = queries[start : start + 1024].float() @ gallery.T.float()
        correct = owners[start : start + 1024, None] == targets[None]
        best_correct = scores.masked_fill(~correct, float("-inf")).amax(1)
        wrong = scores.masked_fill(correct, float("-inf"))
        # Not "score >= best": with NaN that is False, and a model that gives NaN must not be ranked first.
        ranks.append((~correct & ~(scores < best_correct[:, None] - TIE)).sum(1))
        margins.append(best_correct - wrong.amax(1))
    return torch.cat(ranks), torch.cat(margins)
