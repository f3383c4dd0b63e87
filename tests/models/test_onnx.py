"""ONNX exports against torch: features, tokens, preprocessing, and a run without torch."""

import csv
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from degla.data.images import decode
from degla.data.transforms import EvalTransform
from degla.errors import CheckpointError, ConfigError
from degla.models import load_clip
from degla.models.onnx import save_onnx

pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
runtime = pytest.importorskip("degla.runtime", reason="the extra onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

from degla.report.onnx_card import OnnxChange, add_section, measure_change  # noqa: E402

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


@pytest.fixture(scope="module")
def unrounded():
    """The model with weights that float16 cannot hold exactly, as trained ones are."""
    model = load_clip("degla-scenes", pretrained="plain_clip").eval()
    with torch.no_grad():
        for parameter in model.clip.parameters():
            parameter.mul_(1 + 1e-4)
    return model


@pytest.mark.parametrize(("precision", "size", "cosine"), [("16", 0.65, 0.9999), ("int8", 0.8, 0.97)])
def test_smaller_exports_stay_near(unrounded, exported, photos, tmp_path, precision, size, cosine):
    small = runtime.OnnxClip(save_onnx(unrounded, tmp_path, precision=precision))
    for tower in ("image", "text"):
        assert (tmp_path / f"{tower}.onnx").stat().st_size < (exported / f"{tower}.onnx").stat().st_size * size
    with torch.no_grad():
        texts = unrounded.encode_text(unrounded.tokenizer(TEXTS)).numpy()
        pixels = np.stack([small.pixels(photo) for photo in photos])
        images = unrounded.encode_image(torch.from_numpy(pixels)).numpy()
    cosines = np.append((texts * small.encode_text(TEXTS)).sum(-1), (images * small.encode_pixels(pixels)).sum(-1))
    assert cosines.min() > cosine and cosines.max() < 1.001
    change = measure_change(unrounded, tmp_path, num_items=4)
    assert cosine < change.smallest_cosine < 1 and 0 < change.largest_difference < 0.1 and change.items == 4 * 19
    assert 0.5 < change.before <= 1 and abs(change.before - change.after) <= 2 * change.changed + 1e-9


def test_the_card_says_how_the_features_change(tmp_path):
    change = OnnxChange(1e-3, 0.999, before=0.805, after=0.8049, changed=0.02, items=950)
    (tmp_path / "README.md").write_text("# Model\n\n## Results\n\n## Licence\n\nNot stated.\n")
    add_section(tmp_path / "README.md", change)
    text = (tmp_path / "README.md").read_text()
    assert text.index("## ONNX against PyTorch") < text.index("## Licence") and "950 items" in text
    assert "accuracy: 80.5 % with PyTorch, 80.5 % with this export (+0.0)" in text and "differ: 2.0 %" in text


def test_the_serving_folder_describes_the_graphs(exported):
    """Names, types and sizes in the configs are those of the graphs that they serve."""
    types = {"tensor(uint8)": "TYPE_UINT8", "tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}
    for tower in ("image", "text"):
        folder = exported / "serving" / f"clip_{tower}"
        graph = folder / "1" / "model.onnx"
        assert graph.read_bytes() == (exported / f"{tower}.onnx").read_bytes()
        assert graph.stat().st_nlink == 2  # a hard link, not a copy
        config = (folder / "config.pbtxt").read_text()
        session = onnxruntime.InferenceSession(graph)
        for kind, tensors in (("input", session.get_inputs()), ("output", session.get_outputs())):
            (tensor,) = tensors
            batch, *dims = tensor.shape
            described = re.search(
                rf'^{kind} \[ {{ name: "(\w+)" data_type: (\w+) dims: \[ (.*?) \] }} \]$', config, re.M
            )
            assert described.groups() == (tensor.name, types[tensor.type], ", ".join(map(str, dims)))
            assert isinstance(batch, str)  # dynamic
        assert f'name: "clip_{tower}"' in config and 'backend: "onnxruntime"' in config


@pytest.mark.parametrize("damage", ["no manifest", "no graph", "truncated graph", "no tokenizer", "another format"])
def test_a_damaged_folder_is_one_error(exported, tmp_path, damage):
    for name in ("degla_onnx.json", "image.onnx", "text.onnx", "tokenizer.json"):
        shutil.copyfile(exported / name, tmp_path / name)
    if damage == "another format":
        (tmp_path / "degla_onnx.json").write_text('{"format": 2}')
    elif damage == "truncated graph":
        (tmp_path / "text.onnx").write_bytes((exported / "text.onnx").read_bytes()[:1000])
    else:
        (tmp_path / {"manifest": "degla_onnx.json", "graph": "image.onnx"}.get(damage[3:], "tokenizer.json")).unlink()
    with pytest.raises(CheckpointError, match="reads format 1" if "format" in damage else "is not a whole folder"):
        runtime.OnnxClip(tmp_path)


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
