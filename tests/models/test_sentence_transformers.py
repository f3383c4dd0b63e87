"""``degla-export to=sentence_transformers``, loaded back by the package itself."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from degla.api.model import Model
from degla.models import load_clip
from degla.models.sentence_transformers import save_sentence_transformers


def test_features_equal_those_here(tmp_path):
    package = pytest.importorskip("sentence_transformers")
    torch.manual_seed(0)
    model = load_clip("degla-tiny", quick_gelu=True).eval()
    folder = save_sentence_transformers(model, tmp_path / "out")
    theirs, ours = package.SentenceTransformer(str(folder), device="cpu"), Model(model, "ours")
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(3)]
    texts = ["a dog on a mat", "Two cats, and a dog?!", "x " * 90]
    np.testing.assert_allclose(theirs.encode(texts), ours.encode_text(texts).numpy(), atol=1e-5)
    np.testing.assert_allclose(theirs.encode(images), ours.encode_image(images).numpy(), atol=1e-5)
    assert [module["type"] for module in json.loads((folder / "modules.json").read_text())] == [
        "sentence_transformers.models.CLIPModel", "sentence_transformers.models.Normalize"
    ]  # fmt: skip
