"""The input of an objective, ``Features``, and its output, ``LossTerms``.

Shapes: B samples, K negatives per sample, U units, P patches, T tokens, D embedding size.
"""

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

# What a term may need besides images and captions -> the fields of ``Features`` that hold it.
NEEDS: dict[str, tuple[str, ...]] = {
    "negatives": ("negatives", "negative_mask"),
    "unfiltered_negatives": ("negatives", "negative_mask"),  # entries as they stand, also one equal to its caption
    "teacher": (),  # a second ``Features``
    "units": ("units", "foils", "unit_mask"),
    "paraphrases": ("paraphrases", "paraphrase_mask"),
    "second_captions": ("second_captions", "second_caption_mask"),
    "negative_images": ("negative_images", "negative_image_mask"),
    "tokens": ("patches", "tokens", "token_mask", "negative_tokens", "negative_token_mask"),
    "identity": ("image_ids", "text_ids"),
    "logit_bias": ("logit_bias",),
}


class Features(NamedTuple):
    """Unit-norm float32 embeddings of one batch on one rank.

    ``negatives`` has K = 0 where the objective reads no negatives; every field after ``logit_scale`` is None unless
    some term needs it. Read and build it by field name: code that relies on the order of the fields would train on the
    wrong tensors, without an error, if that order changed.
    """

    image: Tensor  # (B, D)
    text: Tensor  # (B, D)
    negatives: Tensor  # (B, K, D)
    negative_mask: Tensor  # (B, K) bool, True where a negative exists
    logit_scale: Tensor  # () the multiplier, already exponentiated
    logit_bias: Tensor | None = None  # () added to every logit of a sigmoid loss
    units: Tensor | None = None  # (B, U, D) parts of the caption
    foils: Tensor | None = None  # (B, U, D) each unit, minimally changed
    unit_mask: Tensor | None = None  # (B, U) bool, True where unit and foil exist
    paraphrases: Tensor | None = None  # (B, D)
    paraphrase_mask: Tensor | None = None  # (B,) bool
    second_captions: Tensor | None = None  # (B, D) another caption of the same image
    second_caption_mask: Tensor | None = None  # (B,) bool
    negative_images: Tensor | None = None  # (B, D) an image of the sample's first negative
    negative_image_mask: Tensor | None = None  # (B,) bool
    image_ids: Tensor | None = None  # (B,) int64, equal for equal images
    text_ids: Tensor | None = None  # (B,) int64, equal for equal captions
    patches: Tensor | None = None  # (B, P, D) not normalised, without the class token
    tokens: Tensor | None = None  # (B, T, D) of the captions, not normalised
    token_mask: Tensor | None = None  # (B, T) bool, without the start token and padding
    negative_tokens: Tensor | None = None  # (B, K, T, D)
    negative_token_mask: Tensor | None = None  # (B, K, T) bool


class LossTerms(NamedTuple):
    """The loss that is minimised, ``total``, and its unweighted parts for the log, ``terms``.

    The mean of each value over the ranks is its value on the global batch.
    """

    total: Tensor  # ()
    terms: dict[str, Tensor]  # name -> ()


def fields_of(needs: Iterable[str]) -> list[str]:
    """Return the fields of ``Features`` that terms with these needs read, images and captions included."""
    names = dict.fromkeys(field for need in needs for field in NEEDS[need])
    return ["image", "text", *names]
