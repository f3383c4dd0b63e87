"""A model as an index uses it: a PyTorch model, or an ONNX pair without PyTorch.

Importing this module imports no torch, and neither does ``OnnxEncoder``.

Shapes: B images, M texts, D embedding.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from degla.errors import ConfigError, MissingDependencyError
from degla.image_index.manifest import ModelRecord

_OF_LOAD_CLIP = ("name", "pretrained", "quick_gelu", "cache_dir", "context_length")


class ImageTextEncoder(Protocol):
    """The interface of both encoders."""

    record: ModelRecord

    def start_thread(self) -> None:
        """Set up a thread that will call ``prepare``."""

    def prepare(self, path: str) -> np.ndarray:
        """Read, decode and resize an image file to ``(3, H, W)`` uint8; may be called by several threads.

        Raises:
            BadImage: the file cannot be decoded.
        """

    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        """Encode ``(B, 3, H, W)`` uint8 images as ``(B, D)`` float32 of unit norm."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode M texts as ``(M, D)`` float32 of unit norm."""


class OnnxEncoder:
    """An image and a text tower of ``degla-export to=onnx``.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path):
        try:
            from degla.runtime import OnnxClip
        except ImportError as error:
            raise MissingDependencyError.for_extra("onnx=... needs onnxruntime", "onnx") from error
        if not (folder / "degla_onnx.json").is_file():
            raise ConfigError(f"onnx={folder} holds no degla_onnx.json: set it to a folder of degla-export to=onnx")
        self.model = OnnxClip(folder)
        self.record = ModelRecord(
            kind="onnx",
            arguments={"folder": str(folder.resolve())},
            label=f"{folder.resolve().name} (ONNX)",
            fingerprint=self.model.fingerprint(),
            embed_dim=self.model.manifest["embed_dim"],
        )

    def start_thread(self) -> None:
        """Do nothing; see ``ImageTextEncoder``."""

    def prepare(self, path: str) -> np.ndarray:
        """Return ``(3, H, W)`` uint8 pixels; see ``ImageTextEncoder``."""
        from degla.data.image_files import load_rgb

        return self.model.pixels(load_rgb(path))

    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        """Return ``(B, D)`` features; see ``ImageTextEncoder``."""
        return self.model.encode_pixels(pixels)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return ``(M, D)`` features; see ``ImageTextEncoder``."""
        return self.model.encode_text(texts)


class TorchEncoder:
    """A model of PyTorch.

    Args:
        arguments: of ``load_clip``; only those that say which model it is are used.
        device: ``cpu``, ``cuda``, or ``auto``: ``cuda`` where there is one.
    """

    def __init__(self, arguments: Mapping[str, Any], device: str = "auto"):
        import torch

        from degla.evaluation import Encoder
        from degla.models import load_clip

        known = {key: value for key, value in arguments.items() if key in _OF_LOAD_CLIP}
        torch.manual_seed(0)  # random weights, where those are wanted, are the same in the next search
        model = load_clip(**known).eval()
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        try:
            model = model.to(chosen)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"device={device} is not available: set it to auto, cpu or cuda") from error
        self.encoder = Encoder(model)
        self.record = ModelRecord(
            kind="torch",
            arguments=_with_absolute_paths(known),
            label=model.source.description,
            fingerprint=self.encoder.fingerprint(),
            embed_dim=int(model.config["embed_dim"]),
        )

    def start_thread(self) -> None:
        """Let operations of this thread use one core; see ``ImageTextEncoder``.

        OpenMP gives every Python thread a pool of its own, whose idle threads keep the cores busy.
        """
        import torch

        torch.set_num_threads(1)  # of the calling thread only

    def prepare(self, path: str) -> np.ndarray:
        """Return ``(3, H, W)`` uint8 pixels; see ``ImageTextEncoder``."""
        from degla.data.images import decode

        pixels: np.ndarray = self.encoder.transform(decode(None, path)).numpy()
        return pixels

    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        """Return ``(B, D)`` features; see ``ImageTextEncoder``."""
        import torch

        features: np.ndarray = self.encoder.encode_images(torch.from_numpy(pixels)).numpy()
        return features

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return ``(M, D)`` features; see ``ImageTextEncoder``."""
        features: np.ndarray = self.encoder.encode_texts(texts).numpy()
        return features


def load_encoder(record: ModelRecord, device: str = "auto") -> ImageTextEncoder:
    """Load the model that made an index.

    Args:
        record: what the manifest says about it.
        device: as for ``TorchEncoder``.
    """
    if record.kind == "onnx":
        return OnnxEncoder(Path(record.arguments["folder"]))
    return TorchEncoder(record.arguments, device)


def _with_absolute_paths(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments that mean the same in every working directory."""
    absolute = dict(arguments)
    for key in ("name", "pretrained"):
        text = str(absolute.get(key) or "")
        prefix = "local-dir:" if text.startswith("local-dir:") else ""
        path = Path(text.removeprefix(prefix))
        if text and path.exists() and (prefix or key == "pretrained"):
            absolute[key] = f"{prefix}{path.resolve()}"
    return absolute
