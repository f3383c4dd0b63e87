"""Run a model that ``degla-export to=onnx`` wrote, with numpy, Pillow, onnxruntime, tokenizers and ftfy only.

Shapes: B images, M texts, D embedding.
"""

import hashlib
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer

from degla.errors import CheckpointError

FORMAT = 1  # of the folders that this version reads
_FILES = ("degla_onnx.json", "image.onnx", "text.onnx", "tokenizer.json")
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class ClipInputs:
    """Preprocessing and tokenizer of an exported model: all that a client of a server needs.

    Args:
        folder: of ``degla-export to=onnx``.

    Raises:
        CheckpointError: a file of the folder is missing, damaged or of another format.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            self.manifest: dict[str, Any] = json.loads((self.folder / _FILES[0]).read_text(encoding="utf-8"))
            self.tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises bare exceptions
            raise _not_whole(self.folder, error) from error
        if self.manifest.get("format") != FORMAT:
            found = self.manifest.get("format")
            raise CheckpointError(f"{folder} is of format {found}, and this version reads format {FORMAT}")

    def pixels(self, image: str | Path | Image.Image) -> np.ndarray:
        """Return ``(3, H, W)`` uint8: resized as in the model's training, then cropped at the centre."""
        image = (image if isinstance(image, Image.Image) else Image.open(image)).convert("RGB")
        height, width = self.manifest["image_size"]
        resampling = _RESAMPLING[self.manifest["interpolation"]]
        if self.manifest["resize_mode"] == "squash":
            image = image.resize((width, height), resampling)
        else:
            edge, short, long = min(height, width), min(image.size), max(image.size)
            longer = int(edge * long / short)
            image = image.resize((edge, longer) if image.width <= image.height else (longer, edge), resampling)
            left, top = round((image.width - width) / 2), round((image.height - height) / 2)
            image = image.crop((left, top, left + width, top + height))
        return np.asarray(image).transpose(2, 0, 1)

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """Return ``(M, L)`` int64 token ids, cleaned and truncated as in training."""
        cleaned = [html.unescape(html.unescape(ftfy.fix_text(text))) for text in texts]
        return np.array([encoding.ids for encoding in self.tokenizer.encode_batch(cleaned)], dtype=np.int64)


class OnnxClip(ClipInputs):
    """The image and the text tower of a CLIP model.

    Args:
        folder: of ``degla-export to=onnx``.
        providers: onnxruntime's execution providers, in order of preference.

    Raises:
        CheckpointError: a file of the folder is missing, damaged or of another format.
    """

    def __init__(self, folder: str | Path, providers: Sequence[str] = ("CPUExecutionProvider",)):
        super().__init__(folder)
        try:
            self.image, self.text = (
                onnxruntime.InferenceSession(self.folder / f"{tower}.onnx", providers=list(providers))
                for tower in ("image", "text")
            )
        except Exception as error:  # onnxruntime has a dozen types for damaged files
            raise _not_whole(self.folder, error) from error

    def encode_image(self, images: Sequence[str | Path | Image.Image]) -> np.ndarray:
        """Encode images, given as files or as Pillow images, to ``(B, D)`` float32 of unit norm."""
        return self.encode_pixels(np.stack([self.pixels(image) for image in images]))

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Encode ``(B, 3, H, W)`` uint8 images, resized by ``pixels``, to ``(B, D)`` float32 of unit norm."""
        features: np.ndarray = self.image.run(None, {"inputs": pixels})[0]
        return features

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts to ``(M, D)`` float32 of unit norm."""
        features: np.ndarray = self.text.run(None, {"inputs": self.tokens(texts)})[0]
        return features

    def score(self, images: Sequence[str | Path | Image.Image], texts: Sequence[str]) -> np.ndarray:
        """Return the ``(B, M)`` cosines of images and texts.

        Args:
            images: B files or Pillow images.
            texts: M texts.
        """
        return self.encode_image(images) @ self.encode_text(texts).T

    def fingerprint(self) -> str:
        """Return a hash of graphs, tokenizer and preprocessing: of everything that the features depend on."""
        digest = hashlib.sha256()
        for name in _FILES:
            digest.update((self.folder / name).read_bytes())
        return digest.hexdigest()[:16]


def _not_whole(folder: Path, error: Exception) -> CheckpointError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return CheckpointError(f"{folder} is not a whole folder of degla-export to=onnx ({reason})")
