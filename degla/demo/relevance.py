"""Which parts of an image a caption's score depends on, by integrated gradients.

Shapes: H, W pixels of the model's input; N steps.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from degla.api.model import Model
from degla.data.transforms import EvalTransform

_STEPS = 16
_STEPS_AT_ONCE = 8  # images of one backward pass; more would need more memory
_CELLS = 12  # cells of the map along the shorter side


class Relevance(NamedTuple):
    """The relevance of an image's pixels to a caption."""

    view: Tensor  # (3, H, W) uint8, the image as the model sees it
    pixels: Tensor  # (H, W) float32; the sum is the score's difference from that of an image without content
    cells: Tensor  # (rows, columns) float32, sums of pixels


def relevance(model: Model, image: Tensor, caption: str, steps: int = _STEPS) -> Relevance:
    """Attribute the cosine of an image and a caption to the pixels (Sundararajan et al. 2017, integrated gradients).

    The path starts at an image of the mean colour and ends at the image. The gradients along it, times the
    difference of the pixels, sum up to the difference of the two cosines. ``steps`` points approximate the integral.

    Args:
        model: its weights need no gradient.
        image: ``(3, H, W)`` uint8, of any size.
        caption: the text.
        steps: number N of points of the path.
    """
    clip = model.clip
    transform = EvalTransform(clip.image_size, clip.preprocess["interpolation"], clip.preprocess["resize_mode"])
    view = transform(image)
    end = view.float().to(model.device)[None]
    start = end.mean(dim=(2, 3), keepdim=True).expand_as(end)
    text = model.encode_text(caption).to(model.device)
    gradient = torch.zeros_like(end)
    # Midpoints of N equal intervals: their error is smaller than that of the ends by an order.
    shares = (torch.arange(steps, device=model.device) + 0.5) / steps
    for part in shares.split(_STEPS_AT_ONCE):
        inputs = (start + part.view(-1, 1, 1, 1) * (end - start)).requires_grad_()
        cosines = (clip.encode_image(inputs) @ text.T).sum()
        gradient += torch.autograd.grad(cosines, inputs)[0].sum(dim=0, keepdim=True)
    pixels = (gradient / steps * (end - start)).sum(dim=1)[0].cpu()
    return Relevance(view, pixels, _cells(pixels))


def _cells(pixels: Tensor) -> Tensor:
    """Sum ``(H, W)`` pixels to ``(rows, columns)`` cells, about ``_CELLS`` along the shorter side."""
    edge = max(1, round(min(pixels.shape) / _CELLS))
    padded = F.pad(pixels[None, None], (0, -pixels.shape[1] % edge, 0, -pixels.shape[0] % edge))
    return F.avg_pool2d(padded, edge)[0, 0] * edge**2
