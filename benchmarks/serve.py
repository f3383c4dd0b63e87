"""Compare ONNX Runtime with PyTorch on the CPU: latency of both towers, at batch 1 and 32, in turns in one process.

    python benchmarks/serve.py

The demo's model has its own weights; ViT-B/32 and RN50 have random ones, which takes the same time. Both sides get the
same uint8 images and the same token ids of 77 (the demo's model: its own) positions, and give features that agree.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime import InferenceSession
from record import save, spread

from degla.models import ClipModel, load_clip
from degla.models.onnx import Precision, save_onnx
from degla.report.onnx_card import measure_change
from degla.runtime import OnnxClip

MODELS = {"degla-scenes": "plain_clip", "ViT-B-32": None, "RN50": None}
BATCHES = (1, 32)
SMALLER: dict[str, Precision] = {"float16": "16", "int8": "int8"}
CAPTION = "a red circle to the left of a blue square, and a dog that chases two cats over the grass"


def main() -> None:
    """Measure all models and save the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each side, for each tower and batch")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    figures = {}
    for name in arguments.models:
        torch.manual_seed(0)
        model = load_clip(name, MODELS[name], quick_gelu=None if MODELS[name] else True).eval()
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            save_onnx(model, Path(folder))
            exporting = time.perf_counter() - start
            figures[name] = compare(model, OnnxClip(folder), arguments.seconds)
            figures[name]["seconds_export"] = exporting
            if MODELS[name]:
                figures[name] |= {name: change(model, precision) for name, precision in SMALLER.items()}
    note = f"other programs used the machine: load average {load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end"
    changes = {
        name: {key: part.pop(key) for key in ("largest_difference", *SMALLER) if key in part}
        for name, part in figures.items()
    }
    save("onnx", {"note": note}, changes)  # features, which other work on the machine does not change
    save("serve", {"batches": BATCHES, "seconds": arguments.seconds, "note": note}, figures)


@torch.inference_mode()
def compare(model: ClipModel, onnx: OnnxClip, seconds: float) -> dict[str, Any]:
    """Time both towers on both sides, and compare their features."""
    figures: dict[str, Any] = {}
    differences = []
    for batch in BATCHES:
        images = torch.randint(0, 256, (batch, 3, *model.image_size), dtype=torch.uint8)
        tokens = torch.from_numpy(onnx.tokens([CAPTION] * batch))
        sides: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
            "image": (partial(model.encode_image, images), partial(onnx.encode_pixels, images.numpy())),
            "text": (partial(model.encode_text, tokens), partial(_run, onnx.text, tokens.numpy())),
        }
        for tower, (ours, theirs) in sides.items():
            differences.append(float(np.abs(ours().numpy() - theirs()).max()))
            figures[f"{tower}_{batch}"] = in_turns(ours, theirs, seconds)
    return {**figures, "largest_difference": max(differences)}


def _run(session: InferenceSession, inputs: np.ndarray) -> np.ndarray:
    features: np.ndarray = session.run(None, {"inputs": inputs})[0]
    return features


def in_turns(by_torch: Callable[[], Any], by_onnx: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """Time two functions in turns, so that other work on the machine slows both."""
    times: tuple[list[float], list[float]] = ([], [])
    for function in (by_torch, by_onnx):
        function()
    end = time.perf_counter() + 2 * seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for function, taken in zip((by_torch, by_onnx), times, strict=True):
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
    return {
        "torch": spread(times[0]),
        "onnx": spread(times[1]),
        "times_faster": statistics.median(a / b for a, b in zip(*times, strict=True)),
    }


def change(model: ClipModel, precision: Precision) -> dict[str, float]:
    """Return how a smaller export changes features and answers on the built-in benchmark."""
    with tempfile.TemporaryDirectory() as folder:
        return measure_change(model, save_onnx(model, Path(folder), precision))._asdict()


if __name__ == "__main__":
    main()
