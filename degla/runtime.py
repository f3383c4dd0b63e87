"""Run a model that ``degla-export to=onnx`` wrote, with numpy, Pillow, onnxruntime, tokenizers and ftfy only.

Shapes: B images, M texts, D embedding.
"""

import html
import json
from collections.abc import Sequence
from pathlib import Path

import ftfy
import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class OnnxClip:
    """The image and the text tower of a CLIP model.

    Args:
        folder: of ``degla-export to=onnx``.
        providers: onnxruntime's execution providers, in order of preference.
    """

    def __init__(self, folder: str | Path, providers: Sequence[str] = ("CPUExecutionProvider",)):
        folder = Path(folder)
        self.manifest = json.loads((folder / "degla_onnx.json").read_text(encoding="utf-8"))
        if self.manifest.get("format") != 1:
            raise ValueError(f"{folder} is of format {self.manifest.get('format')}, and this version reads format 1")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.image, self.text = (
            onnxruntime.InferenceSession(folder / f"{tower}.onnx", providers=list(providers))
            for tower in ("image", "text")
        )

    def encode_image(self, images: Sequence[str | Path | Image.Image]) -> np.ndarray:
        """Encode images, given as files or as Pillow images, to ``(B, D)`` float32 of unit norm."""
        return self.image.run(None, {"inputs": np.stack([self._pixels(image) for image in images])})[0]

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts to ``(M, D)`` float32 of unit norm."""
        cleaned = [html.unescape(html.unescape(ftfy.fix_text(text))) for text in texts]
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(cleaned)]
        return self.text.run(None, {"inputs": np.array(ids, dtype=np.int64)})[0]

    def score(self, images: Sequence[str | Path | Image.Image], texts: Sequence[str]) -> np.ndarray:
        """Return the ``(B, M)`` cosines of images and texts.

        Args:
            images: B files or Pillow images.
            texts: M texts.
        """
        return self.encode_image(images) @ self.encode_text(texts).T

    def _pixels(self, image: str | Path | Image.Image) -> np.ndarray:
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
