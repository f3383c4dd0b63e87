"""ONNX exports against torch: features, tokens, preprocessing, and a run without torch."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from degla.data.images import decode
from degla.data.transforms import EvalTransform
from degla.errors import ConfigError
from degla.models import load_clip
from degla.models.onnx import save_onnx

pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
runtime = pytest.importorskip("degla.runtime", reason="the extra onnx is not installed")

TEXTS = [
    "a red square above a blue circle", "two dogs", "", "don't stop, it's  the 3rd\ttime", "Ünïcode — “quotes”",
    "a&amp;b",
    "ﬁne ﬂow", "word " * 100, "x" * 300, "日本語 😀",
]  # fmt: skip


@pytest.fixture(scope="module")
def shipped():
    return load_clip("degla-scenes", pretrained="plain_clip").eval()


@pytest.fixture(scope="module")
def exported(shipped, tmp_path_factory):
    return save_onnx(shipped, tmp_path_factory.mktemp("onnx") / "model")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Upright, wide and tall images, one of them with transparency."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    paths = []
    for i, size in enumerate([(64, 64), (90, 60), (50, 120)]):
        pixels = rng.integers(0, 256, (6, 5, 3 if i else 4), dtype=np.uint8)
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.png")
        paths.append(folder / f"{i}.png")
    return paths


@torch.no_grad()
def test_features_equal_torch_for_any_number_of_inputs(shipped, exported):
    model = runtime.OnnxClip(exported)
    images = torch.randint(0, 256, (5, 3, *shipped.image_size), dtype=torch.uint8)
    for count in (1, 5):
        features = model.image.run(None, {"inputs": images[:count].numpy()})[0]
        np.testing.assert_allclose(features, shipped.encode_image(images[:count]).numpy(), atol=1e-5)
        features = model.encode_text(TEXTS[:count])
        np.testing.assert_allclose(features, shipped.encode_text(shipped.tokenizer(TEXTS[:count])).numpy(), atol=1e-5)


@pytest.mark.parametrize(("name", "quick_gelu"), [("RN50", True), ("degla-tiny", False)], ids=["RN50", "degla-tiny"])
@torch.no_grad()
def test_other_architectures_with_random_weights(name, quick_gelu, tmp_path):
    torch.manual_seed(0)
    model = load_clip(name, quick_gelu=quick_gelu).eval()
    onnx = runtime.OnnxClip(save_onnx(model, tmp_path))
    images = torch.randint(0, 256, (2, 3, *model.image_size), dtype=torch.uint8)
    features = onnx.image.run(None, {"inputs": images.numpy()})[0]
    np.testing.assert_allclose(features, model.encode_image(images).numpy(), atol=1e-4)
    texts = model.encode_text(model.tokenizer(TEXTS)).numpy()
    np.testing.assert_allclose(onnx.encode_text(TEXTS), texts, atol=1e-4)


def test_tokens_equal_open_clips(shipped, exported):
    model = runtime.OnnxClip(exported)
    expected = shipped.tokenizer.tokenize(TEXTS, context_length=shipped.tokenizer.context_length)
    asked = []
    model.text = type("Session", (), {"run": lambda self, names, inputs: asked.append(inputs["inputs"]) or [None]})()
    model.encode_text(TEXTS)
    assert asked[0].tolist() == expected.tolist()


def test_tokens_of_real_captions(shared_captions, shipped, exported):
    model = runtime.OnnxClip(exported)
    expected = shipped.tokenizer.tokenize(shared_captions, context_length=shipped.tokenizer.context_length).tolist()
    assert [encoding.ids for encoding in model.tokenizer.encode_batch(shared_captions)] == expected


@pytest.fixture
def shared_captions():
    from tests.conftest import SHARED

    file = SHARED / "flickr8k_1k" / "captions.txt"
    if not file.is_file():
        pytest.skip(f"real captions are not here ({file})")
    with file.open(newline="", encoding="utf-8") as lines:
        return [row["caption"] for row in csv.DictReader(lines)]


def test_preprocessing_is_within_two_grey_levels_of_the_evaluation(shipped, exported, photos):
    """torchvision's kernel for uint8 tensors rounds otherwise than Pillow's."""
    transform = EvalTransform(shipped.image_size, shipped.preprocess["interpolation"])
    model = runtime.OnnxClip(exported)
    for path in photos:
        ours = transform(decode(path.read_bytes(), str(path))).numpy().astype(int)
        assert np.abs(model.pixels(path).astype(int) - ours).max() <= 2


def test_int8_stays_near(shipped, exported, photos, tmp_path):
    full, small = runtime.OnnxClip(exported), runtime.OnnxClip(save_onnx(shipped, tmp_path, precision="int8"))
    assert (tmp_path / "text.onnx").stat().st_size < (exported / "text.onnx").stat().st_size * 0.8
    cosines = (full.encode_text(TEXTS) * small.encode_text(TEXTS)).sum(-1)
    cosines = np.append(cosines, (full.encode_image(photos) * small.encode_image(photos)).sum(-1))
    assert cosines.min() > 0.97 and cosines.max() < 1.001


def test_the_runtime_imports_no_torch(exported, photos):
    code = (
        "import sys; from degla.runtime import OnnxClip\n"
        f"scores = OnnxClip({str(exported)!r}).score([{str(photos[0])!r}], ['a dog', 'a cat'])\n"
        "assert scores.shape == (1, 2)\n"
        "assert not {'torch', 'open_clip', 'lightning'} & set(sys.modules), 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_manifest_says_what_was_written(exported, shipped):
    manifest = json.loads((exported / "degla_onnx.json").read_text())
    assert (manifest["opset"], manifest["precision"]) == (18, "32")
    assert manifest["image_size"] == list(shipped.image_size)
    assert manifest["logit_scale"] == pytest.approx(shipped.logit_scale().item())


def test_other_tokenizers_are_refused(shipped, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped.tokenizer, "tokenize", lambda texts: texts)
    with pytest.raises(ConfigError, match="set to=open_clip"):
        save_onnx(shipped, tmp_path / "x")
