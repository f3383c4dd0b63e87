"""A plain training step after the authors' released code, written from its description (docs/losses.md).

What it does as that code does: plain open_clip towers over all 77 positions, every caption and negative in one
text call, an image-to-text matrix of N x N(1 + K) logits and a text-to-image matrix of N(1 + K) x N of which all
but N rows are thrown away, TGC and IGC by masking N x N(1 + K) matrices, AdamW in PyTorch's default form, and
a teacher averaged one parameter at a time into new memory.
"""

import copy

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ReleasedStep:
    """Student, teacher and optimizer of the baseline.

    Args:
        name: open_clip architecture.
        state: weights, as ``ClipModel.clip`` has them.
        quick_gelu: activation.
        lr: learning rate.
        device: where it runs.
        dtype: autocast to this; None computes in float32.
        decay: of the teacher.
    """

    def __init__(
        self,
        name: str,
        state: dict[str, Tensor],
        quick_gelu: bool,
        lr: float,
        device: torch.device,
        dtype: torch.dtype | None = None,
        decay: float = 0.9996,
    ):
        self.student = open_clip.create_model(name, force_quick_gelu=quick_gelu, nonscalar_logit_scale=True).to(device)
        self.student.load_state_dict(state)
        self.teacher = copy.deepcopy(self.student).eval()
        self.device, self.dtype, self.decay = device, dtype, decay
        plain = [p for p in self.student.parameters() if p.ndim < 2]
        decayed = [p for p in self.student.parameters() if p.ndim >= 2]
        groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.1}]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=1e-6)

    def __call__(self, images: Tensor, tokens: Tensor, negatives: Tensor) -> Tensor:
        """One step.

        Args:
            images: ``(N, 3, H, W)`` float32, normalised.
            tokens: ``(N, 77)`` int64.
            negatives: ``(N, K, 77)`` int64.

        Returns:
            ``()`` the loss before the step, detached.
        """
        texts = torch.cat([tokens, negatives.flatten(0, 1)])
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            image, text, scale = _encode(self.student, images, texts)
            with torch.no_grad():
                teacher_image, teacher_text, _ = _encode(self.teacher, images, texts)
            loss = released_loss(image, text, scale, teacher_image, teacher_text)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for mine, theirs in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                mine.data = self.decay * mine.data + (1 - self.decay) * theirs.data
        return loss.detach()


def released_loss(image: Tensor, text: Tensor, scale: Tensor, teacher_image: Tensor, teacher_text: Tensor) -> Tensor:
    """The released objective by full matrices and masks.

    Args:
        image: ``(N, D)``.
        text: ``(N + N * K, D)``, captions first, then the negatives sample by sample.
        scale: ``()`` multiplier.
        teacher_image: ``(N, D)``.
        teacher_text: ``(N + N * K, D)``.
    """
    return (
        released_contrast(image, text, scale)
        + 0.1 * released_local(image, text, scale, teacher_text)
        + 0.005 * (F.mse_loss(image, teacher_image, reduction="sum") + F.mse_loss(text, teacher_text, reduction="sum"))
    )


def released_contrast(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Both directions; the rows of the negatives are built and thrown away."""
    rows = len(image)
    labels = torch.arange(rows, device=image.device)
    per_image = scale * image @ text.T
    per_text = (scale * text @ image.T)[:rows]
    return (F.cross_entropy(per_image, labels) + F.cross_entropy(per_text, labels)) / 2


def released_local(image: Tensor, text: Tensor, scale: Tensor, teacher_text: Tensor) -> Tensor:
    """TGC with its tiled mask, plus IGC."""
    rows, slots = len(image), len(text) // len(image) - 1
    labels = torch.arange(rows, device=image.device)
    diagonal = torch.eye(rows, device=image.device)
    tiled = diagonal.repeat(1, 1 + slots).bool()
    own = torch.cat([diagonal, diagonal.repeat_interleave(slots, dim=1)], dim=1).bool()
    to_texts = 10.0 * text[:rows] @ torch.cat([teacher_text[:rows], text[rows:]]).T
    tgc = F.cross_entropy(to_texts.masked_fill(~tiled, float("-inf")), labels)
    to_own = scale * image @ text.T
    igc = F.cross_entropy(to_own.masked_fill(~own, float("-inf")), labels)
    return tgc + igc


def _encode(model: nn.Module, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    image, text, scale = model(images, texts)
    return image.float(), text.float(), scale.squeeze()
