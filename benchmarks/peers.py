"""Time the same batches through what a user would pick instead, in one process and in turns.

    python benchmarks/peers.py --data <folder with negatives.jsonl and images/>

Each comparison names our objective and a peer that is trained on the same images and texts:

- ``open_clip_with_teacher``: the released step on open_clip's CLIP, with negatives and an EMA teacher
  (``baseline.py``);
- ``open_clip``: open_clip's CLIP at 77 positions, with negatives. Its ``ClipLoss`` takes none, so it gets a loss of
  five lines;
- ``open_clip_cut``: the same with ``force_custom_text``, cut to the longest text of the batch. Version 3.3.0 does not
  cut its causal mask, so this script does;
- ``transformers``: transformers' ``CLIPModel`` with the same loss, cut to the longest text;
- ``open_clip_captions``: open_clip's CLIP and its own ``ClipLoss`` on the captions alone, at 77 positions.

Two sides at a time are in memory. The weights of ``transformers`` are random; the others start from the same ones, and
the record holds the largest relative difference of their losses where both sides compute the same one.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from baseline import ReleasedStep
from floors import synchronised
from memory import peak_bytes
from open_clip.model import convert_to_custom_text_state_dict
from record import save, spread
from torch import Tensor, nn
from workload import batches

from degla.cli.compose import compose_config
from degla.data.batch import Batch
from degla.models import ClipModel, Teacher, load_clip
from degla.training.build import build_objective
from degla.training.module import DeGLAModule
from degla.training.optim import adamw, constant

Step = Callable[[Batch], Tensor]  # takes one training step and returns its loss ``()``

# Our objective, the peer, and whether both compute the same loss.
COMPARISONS = (
    ("degla_released", "open_clip_with_teacher", True),
    ("negclip", "open_clip", True),
    ("negclip", "open_clip_cut", True),
    ("negclip", "transformers", False),
    ("clip", "open_clip_captions", True),
    ("degla_released", "open_clip_captions", False),
)
_DTYPES = {"32": None, "bf16-mixed": torch.bfloat16}


def main() -> None:
    """Measure and save the record."""
    arguments = _arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.memory_of:
        print(json.dumps(_memory(arguments, device)))
        return
    student = _student(arguments.model)
    work = _work(arguments, student, arguments.warm_up + arguments.steps, device)
    figures = {
        f"{ours} / {peer}": _compare(arguments, student, work, (ours, peer), is_same_loss, device)
        for ours, peer, is_same_loss in COMPARISONS
    }
    sides = sorted({side for ours, peer, _ in COMPARISONS for side in (ours, peer)})
    memory = {side: _memory_alone(side) for side in sides}
    settings = {key: value for key, value in vars(arguments).items() if key not in ("data", "memory_of")}
    versions = {"transformers": version("transformers")}
    name = "peers" if device.type == "cpu" else f"peers_{arguments.precision}_{arguments.batch_size}"
    save(name, settings, {"versions": versions, "step_bytes": memory, **figures})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with negatives.jsonl and images/")
    parser.add_argument("--model", default="ViT-B-32", choices=["ViT-B-32"], help="transformers' default sizes are its")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--num-negatives", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5, help="steps of each side after the warm-up")
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--precision", choices=_DTYPES, default="32")
    parser.add_argument("--note", default="", help="what else the machine did; part of the record")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser.parse_args()


def _compare(
    arguments: argparse.Namespace,
    student: ClipModel,
    work: list[Batch],
    names: tuple[str, str],
    is_same_loss: bool,
    device: torch.device,
) -> dict[str, Any]:
    steps = [_side(name, arguments, student, device) for name in names]
    times: list[list[float]] = [[], []]
    losses: list[list[float]] = [[], []]
    for batch in work:
        for side, step in enumerate(steps):
            start = synchronised(device)
            loss = step(batch)
            times[side].append(synchronised(device) - start)
            losses[side].append(loss.item())
    del steps
    gc.collect()
    ours, peer = (seconds[arguments.warm_up :] for seconds in times)
    figures: dict[str, Any] = {
        "ours_images_per_second": spread([arguments.batch_size / seconds for seconds in ours]),
        "peer_images_per_second": spread([arguments.batch_size / seconds for seconds in peer]),
        "ratio": spread([b / a for a, b in zip(ours, peer, strict=True)]),
    }
    if is_same_loss:
        figures["largest_relative_difference_of_losses"] = max(
            abs(a - b) / abs(b) for a, b in zip(*losses, strict=True)
        )
    print(names, figures, file=sys.stderr, flush=True)
    return figures


def _side(name: str, arguments: argparse.Namespace, student: ClipModel, device: torch.device) -> Step:
    dtype = _DTYPES[arguments.precision]
    state = {key: tensor.clone() for key, tensor in student.clip.state_dict().items()}
    if name == "open_clip_with_teacher":
        released = ReleasedStep(arguments.model, state, True, arguments.lr, device, dtype)
        return lambda batch: released(*_plain_inputs(batch, student))
    if name == "transformers":
        return partial(_peer_step, TransformersPeer().to(device), arguments.lr, dtype, student)
    if name.startswith("open_clip"):
        peer = OpenClipPeer(arguments.model, state, name.removeprefix("open_clip"), student.clip.context_length)
        return partial(_peer_step, peer.to(device), arguments.lr, dtype, student)
    return OurStep(name, _student(arguments.model), arguments.lr, device, dtype)


class OurStep:
    """The module of a training run with an objective of this project, called as the Trainer calls it."""

    def __init__(self, objective: str, student: ClipModel, lr: float, device: torch.device, dtype: torch.dtype | None):
        built = build_objective(compose_config("train", {"objective": objective}).objective)
        teacher = Teacher(student, decay=0.9996) if built.uses_teacher else None
        self.device, self.dtype, self.objective = device, dtype, built
        self.module = DeGLAModule(student, built, teacher, adamw, partial(constant, total_steps=1)).to(device)
        self.optimizer = adamw(student, lr=lr)
        self.optimizer.register_step_post_hook(self.module._after_optimizer_step)

    def __call__(self, batch: Batch) -> Tensor:
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            loss = self.module.compute_losses(batch).total
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class OpenClipPeer(nn.Module):
    """open_clip's CLIP with the loss of a user.

    Args:
        name: architecture.
        state: weights of ``open_clip.model.CLIP``.
        variant: ``_captions``, ``_cut`` or nothing.
        context_length: positions of the text tower.
    """

    def __init__(self, name: str, state: dict[str, Tensor], variant: str, context_length: int):
        super().__init__()
        is_cut = variant == "_cut"
        self.clip = open_clip.create_model(
            name, force_quick_gelu=True, force_custom_text=is_cut, nonscalar_logit_scale=True
        ).train()
        self.clip.load_state_dict(convert_to_custom_text_state_dict(state) if is_cut else state)
        self.is_cut, self.context_length = is_cut, context_length
        self.with_negatives = variant != "_captions"
        self.mask = self.clip.text.attn_mask if is_cut else None

    def forward(self, images: Tensor, captions: Tensor, negatives: Tensor) -> Tensor:
        """Return the loss ``()`` of images ``(B, 3, H, W)``, captions ``(B, L)`` and negatives ``(B, K, L)``."""
        texts = torch.cat([captions, negatives.flatten(0, 1)]) if self.with_negatives else captions
        if self.is_cut:
            assert self.mask is not None
            self.clip.text.attn_mask = self.mask[: texts.shape[1], : texts.shape[1]]
        else:
            texts = F.pad(texts, (0, self.context_length - texts.shape[1]))
        image, text, scale = self.clip(images, texts)
        if not self.with_negatives:
            loss: Tensor = open_clip.ClipLoss()(image, text, scale.squeeze())
            return loss
        return loss_with_negatives(image.float(), text.float(), scale.squeeze())


class TransformersPeer(nn.Module):
    """transformers' ``CLIPModel``, whose default configuration is ViT-B/32."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import CLIPConfig, CLIPModel

        torch.manual_seed(0)
        self.clip = CLIPModel(CLIPConfig()).train()

    def forward(self, images: Tensor, captions: Tensor, negatives: Tensor) -> Tensor:
        """Return the loss ``()`` of images ``(B, 3, H, W)``, captions ``(B, L)`` and negatives ``(B, K, L)``."""
        texts = torch.cat([captions, negatives.flatten(0, 1)])
        ends = texts.argmax(-1, keepdim=True)
        is_text = torch.arange(texts.shape[1], device=texts.device) <= ends
        output = self.clip(input_ids=texts, pixel_values=images, attention_mask=is_text.long())
        return loss_with_negatives(output.image_embeds, output.text_embeds, self.clip.logit_scale.exp())


def loss_with_negatives(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Return NegCLIP's loss ``()``: each image against all texts, each caption against all images.

    Args:
        image: ``(B, D)``.
        text: ``(B + B * K, D)``, captions first.
        scale: ``()``.
    """
    labels = torch.arange(len(image), device=image.device)
    to_texts = scale * image @ text.T
    to_images = scale * text[: len(image)] @ image.T
    return (F.cross_entropy(to_texts, labels) + F.cross_entropy(to_images, labels)) / 2


_optimizers: dict[nn.Module, torch.optim.Optimizer] = {}


def _peer_step(peer: nn.Module, lr: float, dtype: torch.dtype | None, student: ClipModel, batch: Batch) -> Tensor:
    """Take one step of a peer with PyTorch's AdamW and the weight decay of the released code."""
    if peer not in _optimizers:
        _optimizers.clear()  # of the peer before, whose memory is needed
        plain = [p for p in peer.parameters() if p.ndim < 2]
        decayed = [p for p in peer.parameters() if p.ndim >= 2]
        groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.1}]
        _optimizers[peer] = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=1e-6)
    optimizer = _optimizers[peer]
    optimizer.zero_grad()
    images, captions, negatives = _plain_inputs(batch, student, pad=False)
    with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
        loss: Tensor = peer(images, captions, negatives)
    loss.backward()
    optimizer.step()
    return loss.detach()


def _plain_inputs(batch: Batch, student: ClipModel, pad: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Return normalised images, captions and negatives, padded to the context length where ``pad`` says so."""
    mean, std = (value.to(batch.images.device) for value in (student.pixel_mean, student.pixel_std))
    images = (batch.images.float() - mean) / std
    missing = student.clip.context_length - batch.captions.shape[1] if pad else 0
    return images, F.pad(batch.captions, (0, missing)), F.pad(batch.negatives, (0, missing))


def _student(model: str) -> ClipModel:
    torch.manual_seed(0)
    return load_clip(model, quick_gelu=True)


def _work(arguments: argparse.Namespace, student: ClipModel, count: int, device: torch.device) -> list[Batch]:
    made = batches(arguments.data, student, arguments.batch_size, arguments.num_negatives, count)
    return [batch.to(device) for batch in made]


def _memory_alone(side: str) -> int:
    """Measure one side in its own process, where malloc returns freed memory to the system."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, *sys.argv, "--memory-of", side]
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return int(json.loads(result.stdout))


def _memory(arguments: argparse.Namespace, device: torch.device) -> int:
    """Return how far a step of one side exceeds the memory between steps, in bytes."""
    student = _student(arguments.model)
    [batch] = _work(arguments, student, 1, device)
    step = _side(arguments.memory_of, arguments, student, device)
    for _ in range(2):  # the first step creates the optimizer state
        step(batch)
    return peak_bytes(lambda: step(batch), device)


if __name__ == "__main__":
    main()
