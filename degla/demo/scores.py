"""Scores of an image's captions, and how much each word of a caption adds.

Shapes: C captions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from degla.api.model import Model
from degla.data.images import BadImage, ImageLimits, decode
from degla.errors import DataError

MAX_CAPTIONS = 32
_UPLOAD = "the upload"  # in place of the path in messages
MAX_CHARACTERS = 1000  # of a caption; a CLIP model reads the first 77 tokens
MAX_WORDS = 64  # of a caption whose words are explained; each costs one text


class Scores(NamedTuple):
    """The scores of one image's captions by one model."""

    cosines: Tensor  # (C,) float32, from -1 to 1
    shares: Tensor  # (C,) float32, softmax over the captions with the model's temperature


class WordEffect(NamedTuple):
    """The change of a caption's score that one word makes."""

    word: str
    effect: float  # cosine of the caption minus the cosine without the word; positive: the word raises the score


def read_image(image: Path | bytes, limits: ImageLimits) -> Tensor:
    """Decode an image within limits.

    Args:
        image: a file, or its content.
        limits: bounds of its size.

    Returns:
        ``(3, H, W)`` uint8.

    Raises:
        DataError: the image cannot be decoded, or it is too large.
    """
    try:
        return decode(image, _UPLOAD, limits) if isinstance(image, bytes) else decode(None, str(image), limits)
    except BadImage as error:
        # The keys of limits belong to the group loader in training; degla-try has them at the top.
        reason = str(error).replace("loader.max_", "max_").removesuffix(f": {_UPLOAD}")
        raise DataError(f"the image cannot be used: {reason}") from error


def check_captions(captions: Sequence[str]) -> None:
    """Check number and length of captions.

    Args:
        captions: the texts.

    Raises:
        DataError: a caption is empty or too long, or there are too many.
    """
    if len(captions) > MAX_CAPTIONS:
        raise DataError(f"{len(captions)} captions are too many: give {MAX_CAPTIONS} at most")
    for caption in captions:
        if not caption.strip():
            raise DataError("a caption is empty: write some words, or leave it out")
        if len(caption) > MAX_CHARACTERS:
            raise DataError(
                f"the caption that begins with '{caption[:40]}' has {len(caption)} characters: shorten it to "
                f"{MAX_CHARACTERS} at most"
            )


def score_captions(model: Model, image: Tensor, captions: Sequence[str]) -> Scores:
    """Score the captions of one image.

    Args:
        model: scores them.
        image: ``(3, H, W)`` uint8.
        captions: C texts.
    """
    cosines = model.score([image], list(captions))[0]
    with torch.no_grad():
        scale = model.clip.logit_scale().float().cpu()
    return Scores(cosines, torch.softmax(scale * cosines, dim=0))


def word_effects(model: Model, image: Tensor, caption: str) -> list[WordEffect]:
    """Score a caption without each of its words in turn (leave-one-out).

    Args:
        model: scores the texts.
        image: ``(3, H, W)`` uint8.
        caption: its first ``MAX_WORDS`` words are left out.
    """
    words = caption.split()
    shorter = [" ".join([*words[:i], *words[i + 1 :]]) for i in range(min(len(words), MAX_WORDS))]
    cosines = model.score([image], [caption, *shorter])[0].tolist()
    return [WordEffect(word, cosines[0] - without) for word, without in zip(words, cosines[1:], strict=False)]
