"""A plain training step that computes what the authors' released code computes, in the way that code does.

It was written from the description in docs/losses.md. Like the release, it
- runs open_clip's towers over all 77 positions, with captions and negatives in one text call;
- builds N x N(1 + K) image-to-text logits, and N(1 + K) x N text-to-image logits of which it uses N rows;
- computes TGC and IGC by masking N x N(1 + K) matrices;
- uses PyTorch's default AdamW, and averages the teacher one parameter at a time into new memory.

Shapes: N samples of the batch, K negatives per sample, D embedding size.
"""

import copy

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ReleasedStep:
    """The baseline: student, teacher and optimizer.

    Args:
        name: open_clip architecture.
        state: state dict of ``ClipModel.clip``.
        quick_gelu: whether the towers use QuickGELU.
        lr: learning rate.
        device: device of the step.
        dtype: autocast type; None computes in float32.
        decay: decay of the teacher.
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
        """Take one training step.

        Args:
            images: ``(N, 3, H, W)`` float32, already normalised.
            tokens: ``(N, 77)`` int64.
            negatives: ``(N, K, 77)`` int64.

        Returns:
            ``()``, the loss before the step, detached.
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
            for average, current in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                average.data = self.decay * average.data + (1 - self.decay) * current.data
        return loss.detach()


def released_loss(image: Tensor, text: Tensor, scale: Tensor, teacher_image: Tensor, teacher_text: Tensor) -> Tensor:
    """Compute the released objective by full matrices and masks.

    Args:
        image: ``(N, D)``.
        text: ``(N + N * K, D)``, captions first, then the negatives sample by sample.
        scale: ``()``, multiplier of the cosines.
        teacher_image: ``(N, D)``.
        teacher_text: ``(N + N * K, D)``.

    Returns:
        ``()``.
    """
    return (
        released_contrast(image, text, scale)
        + 0.1 * released_local(image, text, scale, teacher_text)
        + 0.005 * (F.mse_loss(image, teacher_image, reduction="sum") + F.mse_loss(text, teacher_text, reduction="sum"))
    )


def released_contrast(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Compute the global contrast ``()`` in both directions.

    As in the release, the text-to-image logits of the negatives are computed and not used.

    Args:
        image: ``(N, D)``.
        text: ``(N + N * K, D)``.
        scale: ``()``.
    """
    rows = len(image)
    labels = torch.arange(rows, device=image.device)
    per_image = scale * image @ text.T
    per_text = (scale * text @ image.T)[:rows]
    return (F.cross_entropy(per_image, labels) + F.cross_entropy(per_text, labels)) / 2


def released_local(image: Tensor, text: Tensor, scale: Tensor, teacher_text: Tensor) -> Tensor:
    """Compute TGC with the released tiled mask plus IGC, ``()``.

    Args:
        image: ``(N, D)``.
        text: ``(N + N * K, D)``.
        scale: ``()``.
        teacher_text: ``(N + N * K, D)``.
    """
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
