"""Features to margins: how much closer the right answer is than the best wrong one. A tie is lost."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

# Equal texts give equal features, but their products differ in the last bit when summed in another order.
TIE = 1e-6

Ties = Literal["lost", "original"]


def choice_margins(image_features: Tensor, caption_features: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine of an image with its caption, less that with the best of its false captions.

    Args:
        image_features: ``(N, D)``, float32, unit norm.
        caption_features: ``(N, C, D)``, unit norm, the right one first.

    Returns:
        ``(N,)`` margins, and ``(N,)`` which false caption was best, from 1 on.
    """
    scores = torch.einsum("nd,ncd->nc", image_features.float(), caption_features.float())
    best = scores[:, 1:].max(1)
    return scores[:, 0] - best.values, best.indices + 1


def class_margins(
    image_features: Tensor, labels: Tensor, classifier: Tensor, names: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cosine of an image with its class, less that with the best other class.

    ImageNet has two classes called "missile" and two called "sunglasses", whose scores are the same whatever the
    model: between such twins the first wins, as with an argmax.

    Args:
        image_features: ``(N, D)``, unit norm.
        labels: ``(N,)`` class numbers.
        classifier: ``(C, D)``, unit norm, from ``prompt_classifier``.
        names: ``(C,)`` equal numbers for classes that are called the same; None where all differ.

    Returns:
        ``(N,)`` margins, and ``(N,)`` which other class was best.
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
    """One vector a class: the mean of its prompts, normalised again (Radford et al. 2021, section 3.1.4).

    Args:
        prompt_features: ``(C, P, D)``, unit norm.

    Returns:
        ``(C, D)``, unit norm.
    """
    return F.normalize(prompt_features.mean(1), dim=-1)


def judged(margins: Tensor, ties_win: bool = False) -> tuple[Tensor, Tensor]:
    """``(N,)`` which are right, and ``(N,)`` which are ties.

    Args:
        margins: ``(N,)``.
        ties_win: count a tie as right, as a plain argmax with the right answer first does.
    """
    ties = margins.abs() <= TIE
    return ((margins > 0) & ~ties) | (ties & ties_win), ties


def retrieval_ranks(queries: Tensor, gallery: Tensor, owners: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """How many wrong entries score as high as the best right one or higher.

    A wrong entry that ties with the right one counts as ranked before it, so a constant encoder finds nothing.

    Args:
        queries: ``(Q, D)``, unit norm.
        gallery: ``(G, D)``, unit norm.
        owners: ``(Q,)`` id of what each query looks for.
        targets: ``(G,)`` id of each entry; an entry is right where the ids are equal.

    Returns:
        ``(Q,)`` int64 ranks from 0, and ``(Q,)`` margins against the best wrong entry.
    """
    ranks, margins = [], []
    for start in range(0, len(queries), 1024):
        scores = queries[start : start + 1024].float() @ gallery.T.float()
        right = owners[start : start + 1024, None] == targets[None]
        best_right = scores.masked_fill(~right, float("-inf")).amax(1)
        wrong = scores.masked_fill(right, float("-inf"))
        # Not "higher or equal": of a comparison with NaN neither holds, and a broken model must not be first.
        ranks.append((~right & ~(scores < best_right[:, None] - TIE)).sum(1))
        margins.append(best_right - wrong.amax(1))
    return torch.cat(ranks), torch.cat(margins)
