"""The terms of other methods as parts of an objective.

Each passes the features that it reads to a pure function of this package, by keyword. Samples that lack what a term
reads, such as a paraphrase, are left out of its mean over the global batch.
"""

import math
from collections.abc import Callable
from typing import ClassVar, Literal

from torch import Tensor

from degla.errors import ConfigError
from degla.losses.caption_views import caption_agreement_loss, paraphrase_loss, unit_contrast_loss
from degla.losses.duplicates import check_duplicates, duplicates_of
from degla.losses.features import Features
from degla.losses.focal import focal_negative_loss, token_negative_loss
from degla.losses.gather import share_over_ranks
from degla.losses.negative_images import con_clip_loss, triplet_clip_loss
from degla.losses.sigmoid import sigmoid_loss
from degla.losses.term import Term, choice_arguments, field

_NEGATIVES = frozenset({"negatives"})


class FocalNegative(Term):
    """FSC-CLIP's global term: a focal choice of the caption among an image's own negatives (``focal_negative_loss``).

    Args:
        weight: factor of the term in the total.
        gamma: exponent of the focal factor.
        smoothing: share of the target that is spread over the caption and its negatives.
        mask_empty: leave empty slots out of the softmax; the released code gives them logit 0.

    Raises:
        ConfigError: ``gamma`` or ``smoothing`` is out of range.
    """

    needs = zero_without = _NEGATIVES
    averages_samples = False  # the mean over samples with a negative, whose number differs between ranks

    def __init__(self, weight: float = 0.5, gamma: float = 2.0, smoothing: float = 0.02, mask_empty: bool = False):
        super().__init__(weight)
        _check_focal("focal", gamma, smoothing)
        self.gamma, self.smoothing, self.mask_empty = gamma, smoothing, mask_empty

    def forward(self, student: Features, teacher: Features | None, rows: slice) -> Tensor:
        """Compute the term; see ``Term.forward``."""
        loss = focal_negative_loss(
            **choice_arguments(student),
            gamma=self.gamma,
            smoothing=self.smoothing,
            mask_empty=self.mask_empty,
        )
        return loss * share_over_ranks(student.negative_mask.any(1).sum(dtype=loss.dtype))


class TokenNegative(Term):
    """FSC-CLIP's local term: the same choice by words against patches (``token_negative_loss``).

    Token features stay on their rank.

    Args:
        weight: factor of the term in the total.
        gamma: exponent of the focal factor.
        smoothing: share of the target that is spread over the caption and its negatives.
        mask_empty: leave empty slots out of the softmax; the released code gives them logit 0.

    Raises:
        ConfigError: ``gamma`` or ``smoothing`` is out of range.
    """

    needs = _NEGATIVES | {"tokens"}
    zero_without = _NEGATIVES
    averages_samples = False  # the mean over samples with a negative, whose number differs between ranks

    def __init__(self, weight: float = 0.2, gamma: float = 2.0, smoothing: float = 0.02, mask_empty: bool = False):
        super().__init__(weight)
        _check_focal("token_focal", gamma, smoothing)
        self.gamma, self.smoothing, self.mask_empty = gamma, smoothing, mask_empty

    def forward(self, student: Features, teacher: Features | None, rows: slice) -> Tensor:
        """Compute the term; see ``Term.forward``."""
        loss = token_negative_loss(
            patch_features=field(student, "patches"),
            token_features=field(student, "tokens"),
            token_mask=field(student, "token_mask"),
            negative_token_features=field(student, "negative_tokens"),
            negative_token_mask=field(student, "negative_token_mask"),
            negative_mask=student.negative_mask,
            logit_scale=student.logit_scale,
            gamma=self.gamma,
            smoothing=self.smoothing,
            mask_empty=self.mask_empty,
        )
        return loss * share_over_ranks(student.negative_mask.any(1).sum(dtype=loss.dtype))


class UnitContrast(Term):
    """CS-CLIP's term: images against units of their captions and their foils (``unit_contrast_loss``).

    Args:
        weight: factor of the term in the total.
    """

    needs = zero_without = frozenset({"units"})
    gathers = True
    averages_samples = False  # each slot has its own number of samples

    def __init__(self, weight: float = 0.5):
        super().__init__(weight)

    def forward(self, student: Features, teacher: Features | None, rows: slice) -> Tensor:
        """Compute the term; see ``Term.forward``."""
        return unit_contrast_loss(
            image_features=student.image,
            unit_features=field(student, "units"),
            foil_features=field(student, "foils"),
            unit_mask=field(student, "unit_mask"),
            logit_scale=student.logit_scale,
        )


class Paraphrase(Term):
    """READ-CLIP's alignment: a paraphrase finds its caption among all captions of the batch (``paraphrase_loss``).

    Args:
        weight: factor of the term in the total.
    """

    needs = zero_without = frozenset({"paraphrases"})
    gathers = True
    averages_samples = False  # the mean over samples with a paraphrase

    def __init__(self, weight: float = 0.5):
        super().__init__(weight)

    def forward(self, student: Features, teacher: Features | None, rows: slice) -> Tensor:
        """Compute the term; see ``Term.forward``."""
        return paraphrase_loss(
            paraphrase_features=field(student, "paraphrases"),
            text_features=student.text,
            logit_scale=student.logit_scale,
            paraphrase_mask=field(student, "paraphrase_mask"),
        )


class CaptionAgreement(Term):
    """CLIC's uni-modal term: two captions of an image have the same embedding (``caption_agreement_loss``).

    Args:
        weight: factor of the term in the total.
    """

    needs = zero_without = frozenset({"second_captions"})
    averages_samples = False  # the mean over samples with a second caption

    def forward(self, student: Features, teacher: Features | None, rows: slice) -> Tensor:
        """Compute the term; see ``Term.forward``."""
        mask = field(student, "second_caption_mask")
        loss = caption_agreement_loss(
            first_features=student.text, second_features=field(student, "second_captions"), second_mask=mask
        )
        return loss * share_over_ranks(mask.sum(dtype=loss.dtype))


class _NegativeImageTerm(Term):
    """Base of the terms that pair the first negative caption of a sample with an image of its own."""

    needs = _NEGATIVES | {"negative_images"}
    gathers = True
    averages_samples = False  # its parts are means over different numbers of samples
    reads_all_parameters = True
    name: ClassVar[str]  # of the term, for messages
    loss: ClassVar[Callable[..., Tensor]]  # computes the value from the arguments below

    def forward(self, student: Features, teacher: Features | None, rows: slice) -> Tensor:
        """Compute the term; see ``Term.forward``."""
        negative_texts, mask = _first_negatives(student, self.name)
        return self.loss(
            image_features=student.image,
            text_features=student.text,
            negative_image_features=field(student, "negative_images"),
            negative_text_features=negative_texts,
            logit_scale=student.logit_scale,
            mask=mask,
        )


class TripletClip(_NegativeImageTerm):
    """TripletCLIP's loss over images, captions, negative captions and their images (``triplet_clip_loss``).

    A sample without a negative caption or without its image takes part with its own image and caption only.

    Args:
        weight: factor of the term in the total.
    """

    name = "triplet"
    loss = staticmethod(triplet_clip_loss)


class ConClip(_NegativeImageTerm):
    """CoN-CLIP's loss over images, captions, negated captions and distractor images (``con_clip_loss``).

    A sample without a negated caption or without a distractor image takes part with its own image and caption only.

    Args:
        weight: factor of the term in the total.
    """

    name = "con_clip"
    loss = staticmethod(con_clip_loss)


class Sigmoid(Term):
    """SigLIP's pairwise loss, with negative captions as further pairs that do not match (``sigmoid_loss``).

    Args:
        weight: factor of the term in the total.
        negatives: an image is paired with its ``own`` negatives, with those of the whole ``batch``, or with ``none``.
        duplicates: a pair of an image and the caption of another sample that has the same image or the same caption
            does not match (``off``), is left out (``mask``), or matches (``count``).

    Raises:
        ConfigError: ``negatives`` or ``duplicates`` has another value.
    """

    gathers = True
    reads_all_parameters = True

    def __init__(
        self,
        weight: float = 1.0,
        negatives: Literal["own", "batch", "none"] = "own",
        duplicates: Literal["off", "mask", "count"] = "off",
    ):
        if negatives not in ("own", "batch", "none"):
            raise ConfigError(f"objective.terms.sigmoid.negatives={negatives} must be own, batch or none")
        treatment = check_duplicates("sigmoid", duplicates)
        self.needs = frozenset({"logit_bias"})
        if negatives != "none":
            self.needs |= _NEGATIVES
        if treatment != "off":
            self.needs |= {"identity"}
        super().__init__(weight)
        self.negatives = negatives
        self.duplicates = treatment

    def forward(self, student: Features, teacher: Features | None, rows: slice) -> Tensor:
        """Compute the term; see ``Term.forward``."""
        slots = 0 if self.negatives == "none" else student.negatives.shape[1]
        return sigmoid_loss(
            image_features=student.image,
            text_features=student.text,
            negative_features=student.negatives[:, :slots],
            negative_mask=student.negative_mask[:, :slots],
            logit_scale=student.logit_scale,
            logit_bias=field(student, "logit_bias"),
            negatives="batch" if self.negatives == "batch" else "own",
            rows=rows,
            duplicates=duplicates_of(student, self.duplicates),
        )


def _check_focal(term: str, gamma: float, smoothing: float) -> None:
    if not 0 <= gamma < math.inf:
        raise ConfigError(f"objective.terms.{term}.gamma={gamma} must be a number of 0 or more")
    if not 0 <= smoothing < 1:
        raise ConfigError(f"objective.terms.{term}.smoothing={smoothing} must be at least 0 and below 1")


def _first_negatives(student: Features, term: str) -> tuple[Tensor, Tensor]:
    """Return ``(N, D)`` first negatives, and ``(N,)`` bool: the samples that have one, and an image of it."""
    if student.negatives.shape[1] == 0:
        raise ConfigError(f"objective.{term} reads one negative caption per sample: set loader.num_negatives=1")
    return student.negatives[:, 0], student.negative_mask[:, 0] & field(student, "negative_image_mask")
