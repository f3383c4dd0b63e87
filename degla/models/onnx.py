"""Writing a model as two ONNX graphs that ``degla.runtime`` runs without PyTorch.

Shapes: B images, M texts, L context length, D embedding.
"""

import copy
import json
import logging
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from degla.artifacts import atomic_write
from degla.errors import ConfigError, MissingDependencyError
from degla.models.blocks import restore_block_classes_
from degla.models.clip import ClipModel
from degla.models.serving import write_serving

OPSET = 18  # of both graphs; the oldest that torch's exporter writes
MANIFEST = "degla_onnx.json"

Precision = Literal["32", "16", "int8"]
_MIN_HALVED = 1024  # numbers of a tensor; smaller ones, such as biases, take no space

# The pattern of CLIP's tokenizer, in the syntax of the tokenizers library.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def save_onnx(model: ClipModel, folder: Path, precision: Precision = "32") -> Path:
    """Write ``image.onnx``, ``text.onnx``, ``tokenizer.json``, a manifest, and ``serving/`` for a Triton server.

    ``image.onnx`` maps ``(B, 3, H, W)`` uint8 to ``(B, D)``, ``text.onnx`` maps ``(M, L)`` int64 to ``(M, D)``; both
    outputs are float32 and unit norm. The number of images and texts is free. QuickGELU stays QuickGELU.

    Args:
        model: on the CPU.
        folder: is created.
        precision: ``32``; ``16`` to store the weights in float16, in half the space; ``int8`` to quantise the weights
            of matrix products (dynamic quantisation, for CPUs).

    Returns:
        ``folder``.

    Raises:
        ConfigError: the model does not use CLIP's kind of tokenizer.
        MissingDependencyError: the extra ``onnx`` is not installed.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise MissingDependencyError.for_extra("to=onnx needs onnxruntime and onnxscript", "onnx") from error
    tokenizer = model.tokenizer.tokenize
    if not isinstance(tokenizer, SimpleTokenizer):
        raise ConfigError(
            f"to=onnx writes models with CLIP's tokenizer, not with {type(tokenizer).__name__}: set to=open_clip"
        )
    folder.mkdir(parents=True, exist_ok=True)
    context_length = model.tokenizer.context_length
    images = torch.zeros(2, 3, *model.image_size, dtype=torch.uint8)
    texts = tokenizer(["a", "b c"], context_length=context_length).long()
    towers: dict[str, tuple[_Tower, Tensor]] = {
        "image": (_ImageTower(model), images),
        "text": (_TextTower(model), texts),
    }
    for name, (tower, example) in towers.items():
        with atomic_write(folder / f"{name}.onnx") as partial:
            _export(tower, example, partial)
            _convert(partial, precision)
    with atomic_write(folder / "tokenizer.json") as partial:
        _fast_tokenizer(tokenizer, context_length).save(str(partial))
    manifest = {
        "format": 1,
        "opset": OPSET,
        "precision": precision,
        "made_with": {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
        "image_size": list(model.image_size),
        "interpolation": model.preprocess["interpolation"],
        "resize_mode": model.preprocess["resize_mode"],
        "context_length": context_length,
        "embed_dim": model.config["embed_dim"],
        "logit_scale": model.logit_scale().item(),
    }
    with atomic_write(folder / MANIFEST) as partial:
        partial.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    write_serving(folder, model.image_size, context_length, model.config["embed_dim"])
    return folder


class _Tower(nn.Module):
    """One tower with open_clip's own blocks, which the exporter can trace."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: ClipModel):
        super().__init__()
        self.clip = copy.deepcopy(model.clip).float()
        restore_block_classes_(self.clip)
        self.register_buffer("mean", model.pixel_mean)
        self.register_buffer("std", model.pixel_std)
        self.eval()


class _ImageTower(_Tower):
    def forward(self, inputs: Tensor) -> Tensor:
        pixels = (inputs.to(torch.float32) - self.mean) / self.std
        return F.normalize(self.clip.encode_image(pixels), dim=-1)


class _TextTower(_Tower):
    def forward(self, inputs: Tensor) -> Tensor:
        return F.normalize(self.clip.encode_text(inputs), dim=-1)


def _export(tower: _Tower, example: Tensor, path: Path) -> None:
    torch.onnx.export(
        tower,
        (example,),
        path,
        dynamo=True,
        opset_version=OPSET,
        input_names=["inputs"],
        output_names=["features"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )


def _convert(path: Path, precision: Precision) -> None:
    """Lower the precision of a graph in place; inputs and outputs keep their types."""
    if precision == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        logging.disable(logging.WARNING)  # it recommends a preprocessing of graphs, which changes nothing here
        try:
            quantize_dynamic(path, path, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
        finally:
            logging.disable(logging.NOTSET)
    elif precision == "16":
        _halve_weights(path)


def _halve_weights(path: Path) -> None:
    """Store large weights in float16; the graph turns them into float32 when it is loaded."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    casts = []
    for weights in model.graph.initializer:
        values = numpy_helper.to_array(weights)
        if weights.data_type == TensorProto.FLOAT and values.size >= _MIN_HALVED:
            name = weights.name
            weights.CopyFrom(numpy_helper.from_array(values.astype("float16"), f"{name}_float16"))
            casts.append(helper.make_node("Cast", [weights.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]  # a node must come after those that it needs
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)


def _fast_tokenizer(tokenizer: SimpleTokenizer, context_length: int):  # type: ignore[no-untyped-def]
    """Return CLIP's tokenizer as one of the ``tokenizers`` library, without its cleaning by ftfy."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    merges = [pair for pair, _ in sorted(tokenizer.bpe_ranks.items(), key=lambda item: item[1])]
    fast = Tokenizer(models.BPE(dict(tokenizer.encoder), merges, end_of_word_suffix="</w>"))
    fast.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(), normalizers.Lowercase()]
    )
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    start, end = (tokenizer.decoder[number] for number in (tokenizer.sot_token_id, tokenizer.eot_token_id))
    fast.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(start, tokenizer.sot_token_id), (end, tokenizer.eot_token_id)],
    )
    fast.enable_truncation(context_length)
    fast.enable_padding(length=context_length, pad_id=0, pad_token=tokenizer.decoder[0])
    return fast
