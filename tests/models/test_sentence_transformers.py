"""``degla-export to=sentence_transformers``, loaded back by the package itself."""

import json
import subprocess

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from degla.api.model import Model
from degla.models import load_clip
from degla.models.sentence_transformers import save_sentence_transformers
from tests.helpers.forked import degla_forked, forked_python


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


def test_the_code_of_the_card_runs(tmp_path):
    pytest.importorskip("sentence_transformers")
    torch.save(load_clip("degla-tiny", quick_gelu=True).clip.state_dict(), tmp_path / "some.pt")
    result = degla_forked("ckpt=some.pt", "model=tiny", "model.quick_gelu=true", "to=sentence_transformers", "out=out",
                          cwd=tmp_path, program="export")  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    card = ModelCard.load(tmp_path / "out/README.md")
    assert card.data.library_name == "sentence-transformers"
    code = card.text.partition("```python\n")[2].partition("\n```")[0]
    result = subprocess.run([forked_python(), "-c", code], cwd=tmp_path / "out", capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.startswith("[["), result.stderr[-3000:]
