"""The section of a model card that says how the features of an ONNX export differ from those of PyTorch."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from degla.data.transforms import EvalTransform
from degla.evaluation import Encoder, FeatureStore, point_estimates, run_benchmarks
from degla.evaluation.tasks.scenes import Scenes
from degla.models import ClipModel
from degla.runtime import OnnxClip

NUM_ITEMS = 50  # of each sub-task of the built-in benchmark


class OnnxChange(NamedTuple):
    """The difference between an ONNX export and the model that it was made from, on the built-in benchmark."""

    largest_difference: float  # of one number of a feature vector
    smallest_cosine: float  # of a feature vector with the same one of PyTorch
    before: float  # accuracy with PyTorch, mean of all sub-tasks, in [0, 1]
    after: float
    changed: float  # share of the answers that differ
    items: int


class _OnnxAsEncoder(Encoder):
    """Computes the features of benchmarks by ONNX Runtime, from the pixels that PyTorch gets."""

    def __init__(self, model: ClipModel, onnx: OnnxClip):
        super().__init__(model)
        self.onnx = onnx
        self.transform = EvalTransform(
            model.image_size, model.preprocess["interpolation"], model.preprocess["resize_mode"]
        )

    def encode_images(self, pixels: Tensor) -> Tensor:
        return torch.from_numpy(self.onnx.encode_pixels(pixels.numpy()))

    def encode_texts(self, texts: list[str]) -> Tensor:  # type: ignore[override]  # FeatureStore passes lists
        return torch.from_numpy(self.onnx.encode_text(texts))


def measure_change(model: ClipModel, folder: Path, num_items: int = NUM_ITEMS) -> OnnxChange:
    """Answer the built-in benchmark with a model and with its ONNX export.

    Args:
        model: on the CPU.
        folder: of the export.
        num_items: number of items of each sub-task.
    """
    task = Scenes("test", num_items)
    stores = [FeatureStore(Encoder(model), progress=False)]
    stores.append(FeatureStore(_OnnxAsEncoder(model, OnnxClip(folder)), progress=False))
    outcomes = [run_benchmarks({"scenes": task}, store)["scenes"].outcomes for store in stores]
    images, texts = list(task.list_images()), list(dict.fromkeys(task.list_texts()))
    pairs = [[store.image_features(images).numpy() for store in stores]]
    pairs.append([store.text_features(texts).numpy() for store in stores])
    answers = [[outcome.correct for outcome in part] for part in outcomes]
    accuracy = [np.mean(list(point_estimates(task, part)[0].values())) for part in outcomes]
    return OnnxChange(
        largest_difference=float(max(np.abs(ours - theirs).max() for ours, theirs in pairs)),
        smallest_cosine=float(min((ours * theirs).sum(1).min() for ours, theirs in pairs)),
        before=float(accuracy[0]),
        after=float(accuracy[1]),
        changed=float(np.mean([ours != theirs for ours, theirs in zip(*answers, strict=True)])),
        items=len(answers[0]),
    )


def section(change: OnnxChange) -> str:
    """Return the change as a section of a model card."""
    return (
        "## ONNX against PyTorch\n\n"
        f"Measured on {change.items} items of degla's built-in benchmark of drawn scenes:\n\n"
        f"- largest difference of a number in a feature vector: {change.largest_difference:.1e}\n"
        f"- smallest cosine of a feature vector with PyTorch's: {change.smallest_cosine:.5f}\n"
        f"- accuracy: {100 * change.before:.1f} % with PyTorch, {100 * change.after:.1f} % with this export "
        f"({round(100 * (change.after - change.before), 1) + 0.0:+.1f})\n"  # + 0.0 turns -0.0 into 0.0
        f"- answers that differ: {100 * change.changed:.1f} %"
    )


def add_section(card: Path, change: OnnxChange) -> None:
    """Add the section to a card that ``write_card`` wrote.

    Args:
        card: the ``README.md``.
        change: what was measured.
    """
    text = card.read_text(encoding="utf-8")
    card.write_text(text.replace("\n## Licence", f"\n{section(change)}\n\n## Licence", 1), encoding="utf-8")
