"""A sample as one panel: its image, and beside it the caption and the negatives with their scores."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_IMAGE_SIZE = 224  # width in pixels of the image in a panel
_TEXT_WIDTH = 420
_MARGIN = 8
_LINE_HEIGHT = 18
_FONT_SIZE = 14
_MAX_LINES = 6  # of a text; the rest is replaced by "..."

_BLACK, _GREY, _WHITE = (0, 0, 0), (95, 95, 95), (255, 255, 255)
_GREEN, _RED = (208, 240, 208), (250, 214, 210)  # behind the highest score: the caption's, or a negative's


class ScoredText(NamedTuple):
    """A caption or a negative of a sample, and its cosine similarity with the image."""

    kind: str  # "caption", or the type of the negative
    text: str
    score: float | None  # None where the student was not asked


def highest(texts: Sequence[ScoredText]) -> int | None:
    """Return the index of the text with the highest score; None where there are no scores."""
    scores = [text.score for text in texts if text.score is not None]
    return scores.index(max(scores)) if scores else None


def draw_panel(image: Tensor, texts: Sequence[ScoredText]) -> np.ndarray:
    """Draw a sample as one panel.

    Args:
        image: ``(3, H, W)`` uint8, on the CPU.
        texts: the caption, then the negatives.

    Returns:
        ``(H', W', 3)`` uint8. The height grows with the texts.
    """
    font = ImageFont.load_default(_FONT_SIZE)
    lines = [_wrap(text.text, font) for text in texts]
    heights = [_LINE_HEIGHT * (1 + len(wrapped)) + _MARGIN for wrapped in lines]
    thumbnail = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    thumbnail = thumbnail.resize((_IMAGE_SIZE, max(1, round(_IMAGE_SIZE * thumbnail.height / thumbnail.width))))
    size = (_IMAGE_SIZE + _TEXT_WIDTH + 3 * _MARGIN, max(thumbnail.height, sum(heights)) + 2 * _MARGIN)
    panel = Image.new("RGB", size, _WHITE)
    panel.paste(thumbnail, (_MARGIN, _MARGIN))
    draw = ImageDraw.Draw(panel)
    left, top, marked = _IMAGE_SIZE + 2 * _MARGIN, _MARGIN, highest(texts)
    for number, (text, wrapped, height) in enumerate(zip(texts, lines, heights, strict=True)):
        if number == marked:
            colour = _RED if number else _GREEN
            draw.rectangle((left - 4, top - 2, left + _TEXT_WIDTH + 4, top + height - 4), fill=colour)
        draw.text((left, top), _heading(text, is_highest=number == marked), fill=_GREY, font=font)
        for row, line in enumerate(wrapped, start=1):
            draw.text((left, top + row * _LINE_HEIGHT), line, fill=_BLACK, font=font)
        top += height
    return np.asarray(panel)


def _heading(text: ScoredText, is_highest: bool) -> str:
    score = "" if text.score is None else f"{text.score:.3f}  "
    return f"{score}{text.kind}{', highest' if is_highest else ''}"


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Return the lines of a text; a word that is wider than a line is split."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= _TEXT_WIDTH:
            lines[-1] = joined
            continue
        lines += [""] if lines[-1] else []
        for character in word:
            if font.getlength(lines[-1] + character) > _TEXT_WIDTH:
                lines.append("")
            lines[-1] += character
        if len(lines) > _MAX_LINES:
            return [*lines[: _MAX_LINES - 1], f"{lines[_MAX_LINES - 1][:-3]}..."]
    return lines
