"""``Term``, the base class of the parts of an objective."""

from typing import TypedDict

from torch import Tensor, nn

from degla.losses.features import NEEDS, Features


class Term(nn.Module):
    """A weighted part of an objective: one loss function and what it reads.

    A subclass computes its value in ``forward`` and declares below what that takes. ``docs/methods.md`` adds one.

    Args:
        weight: factor of the term in the total. A term of weight 0 is not computed.

    Attributes:
        needs: what it reads besides images and captions; names in ``NEEDS``.
        zero_without: the needs without which its value is always 0.
        gathers: whether it contrasts samples of different ranks, and so reads the batch over all ranks.
        averages_samples: whether its value is a mean over samples. The objective then weights each rank by its number
            of samples, and under ``local_loss`` a gathering term computes this rank's samples only. The value of
            another term must already be that of the global batch, or have it as its mean over the ranks.
        reads_all_parameters: whether gradient reaches every parameter of the model. Without such a term DDP has to look
            for parameters that get none.
        batches_per_pass: batches of one pass over the data on each rank, set by the run; None for a stream.
    """

    needs: frozenset[str] = frozenset()
    zero_without: frozenset[str] = frozenset()
    gathers = False
    averages_samples = True
    reads_all_parameters = False
    batches_per_pass: int | None = None

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = weight
        if unknown := self.needs - NEEDS.keys():
            raise ValueError(f"{type(self).__name__}.needs has unknown names: {', '.join(sorted(unknown))}")

    def forward(self, student: Features, teacher: Features | None, rows: slice) -> Tensor:
        """Compute the unweighted value.

        Args:
            student: features with gradient, of this rank's samples, or of all ranks' for a term that gathers.
            teacher: the same samples encoded by the teacher; None where no term needs a teacher.
            rows: the samples among ``student`` whose mean a gathering term returns; other terms may ignore it.

        Returns:
            ``()``.
        """
        raise NotImplementedError


class ChoiceArguments(TypedDict):
    """What the functions take that compare an image with its caption and negative captions."""

    image_features: Tensor  # (B, D)
    text_features: Tensor  # (B, D)
    negative_features: Tensor  # (B, K, D)
    negative_mask: Tensor  # (B, K) bool
    logit_scale: Tensor  # ()


def choice_arguments(features: Features) -> ChoiceArguments:
    """Return the fields of ``Features`` by the names of those arguments.

    Args:
        features: of a batch.
    """
    return {
        "image_features": features.image,
        "text_features": features.text,
        "negative_features": features.negatives,
        "negative_mask": features.negative_mask,
        "logit_scale": features.logit_scale,
    }


def teacher_features(teacher: Features | None) -> Features:
    """Return the teacher's features.

    Raises:
        ValueError: there are none.
    """
    if teacher is None:
        raise ValueError("this objective needs the teacher's features, but none were given")
    return teacher


def field(features: Features, name: str) -> Tensor:
    """Return a field of ``Features`` that the calling term needs.

    Args:
        features: of a batch.
        name: of the field, such as ``paraphrases``, which is ``(B, D)``.

    Raises:
        ValueError: the field is None.
    """
    tensor: Tensor | None = getattr(features, name)
    if tensor is None:
        raise ValueError(f"a term of this objective needs Features.{name}, which was not given")
    return tensor
