"""A model repository of NVIDIA's Triton Inference Server for an exported ONNX pair (docs/serving.md)."""

import os
import shutil
from pathlib import Path

from degla.artifacts import atomic_write

FOLDER = "serving"
_MAX_BATCH = 64  # images or texts of one call of the model; the server splits nothing, so clients must not send more

_CONFIG = """\
name: "{name}"
backend: "onnxruntime"
max_batch_size: {max_batch}
input [ {{ name: "inputs" data_type: {dtype} dims: [ {dims} ] }} ]
output [ {{ name: "features" data_type: TYPE_FP32 dims: [ {embed_dim} ] }} ]
dynamic_batching {{ max_queue_delay_microseconds: 2000 }}
instance_group [ {{ count: 1 kind: KIND_AUTO }} ]
"""


def write_serving(folder: Path, image_size: tuple[int, int], context_length: int, embed_dim: int) -> None:
    """Write ``serving/clip_image`` and ``serving/clip_text``, each with its config and its graph.

    The graphs are hard links to those of the folder where the file system allows it, so they take no space.

    Args:
        folder: holds ``image.onnx`` and ``text.onnx``.
        image_size: height and width in pixels.
        context_length: tokens of a text.
        embed_dim: size of the features.
    """
    towers = {
        "image": ("TYPE_UINT8", f"3, {image_size[0]}, {image_size[1]}"),
        "text": ("TYPE_INT64", str(context_length)),
    }
    for tower, (dtype, dims) in towers.items():
        served = folder / FOLDER / f"clip_{tower}"
        (served / "1").mkdir(parents=True, exist_ok=True)
        _link(folder / f"{tower}.onnx", served / "1" / "model.onnx")
        config = _CONFIG.format(name=served.name, max_batch=_MAX_BATCH, dtype=dtype, dims=dims, embed_dim=embed_dim)
        with atomic_write(served / "config.pbtxt") as partial:
            partial.write_text(config, encoding="utf-8")


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
