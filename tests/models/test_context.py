"""Longer texts: Long-CLIP's positions, features of short texts unchanged, and the new length in everything after."""

import json

import open_clip
import pytest
import torch
from transformers import CLIPModel, CLIPTokenizer

from degla.errors import ConfigError
from degla.models import Teacher, load_clip, save_open_clip
from degla.models.context import stretch_positions
from degla.models.hf import save_hf

SHORT = ["a dog", "two cats on a mat near a small red house with a green door"]  # at most 20 tokens
LONG = " ".join(["a dog and a cat"] * 30)  # 152 tokens


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("context") / "base.pt"
    torch.save(load_clip("degla-tiny").clip.state_dict(), file)
    return str(file)


def load(weights, **settings):
    return load_clip("degla-tiny", weights, quick_gelu=False, **settings).eval()


@pytest.fixture(scope="module")
def pair(weights):
    return load(weights), load(weights, context_length=248)


def long_clip_positions(positions):
    """Section 3.1 of Long-CLIP, position by position: 20 stay, each of the others becomes four."""
    last = len(positions) - 1
    new = [positions[i] for i in range(20)]
    for i in range(20, last):
        new += [positions[i] + (positions[i + 1] - positions[i]) * quarter / 4 for quarter in range(4)]
    new += [positions[last] + (positions[last] - positions[last - 1]) * quarter / 4 for quarter in range(4)]
    return torch.stack(new)


def test_248_positions_are_those_of_long_clip():
    positions = torch.randn(77, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    new = stretch_positions(positions, 248)
    assert new.shape == (248, 16)
    torch.testing.assert_close(new, long_clip_positions(positions), atol=1e-12, rtol=0)
    assert torch.equal(new[:20], positions[:20]) and torch.equal(new[20::4], positions[20:])


@pytest.mark.parametrize("length", [77, 78, 128, 1000])
def test_other_lengths(length):
    positions = torch.arange(77.0)[:, None].expand(77, 4)
    new = stretch_positions(positions, length)
    assert len(new) == length and new.dtype == torch.float32
    torch.testing.assert_close(new.diff(dim=0)[20:], torch.full((length - 21, 4), 57 / (length - 20)))


def test_short_texts_have_the_features_of_the_base_to_the_bit(pair):
    base, long = pair
    assert len(base.tokenizer.ids(SHORT)[1]) <= 20
    with torch.no_grad():
        assert torch.equal(long.encode_text(long.tokenizer(SHORT)), base.encode_text(base.tokenizer(SHORT)))


def test_the_tokenizer_reads_more_and_later_words_count(pair):
    base, long = pair
    assert base.tokenizer([LONG]).shape == (1, 77) and long.tokenizer([LONG]).shape == (1, 152)
    assert base.tokenizer.is_truncated(LONG) and not long.tokenizer.is_truncated(LONG)
    assert base.tokenizer.key() != long.tokenizer.key()
    with torch.no_grad():
        first, second = long.encode_text(long.tokenizer([LONG, f"{LONG} on the moon"]))
    assert (first - second).abs().max() > 1e-4


def test_the_teacher_and_weights_that_are_stretched_already(pair, tmp_path):
    _, long = pair
    teacher = Teacher(long)
    texts = long.tokenizer([*SHORT, LONG])
    with torch.no_grad():
        assert torch.equal(teacher.model.encode_text(texts), long.encode_text(texts))
    torch.save(long.clip.state_dict(), tmp_path / "long.pt")
    again = load(str(tmp_path / "long.pt"), context_length=248)
    assert torch.equal(again.clip.positional_embedding, long.clip.positional_embedding)


def test_open_clip_reads_the_export(pair, tmp_path):
    _, long = pair
    save_open_clip(long, tmp_path)
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    assert config["model_cfg"]["text_cfg"]["context_length"] == 248
    model = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")([*SHORT, LONG])
    assert tokens.shape == (3, 248)
    with torch.no_grad():
        ours = long.encode_text(long.tokenizer([*SHORT, LONG]))
        torch.testing.assert_close(model.encode_text(tokens, normalize=True), ours, atol=1e-6, rtol=0)
    assert load_clip(pretrained=str(tmp_path)).tokenizer.context_length == 248


def test_transformers_reads_the_export(pair, tmp_path):
    _, long = pair
    save_hf(long, tmp_path)
    model, tokenizer = CLIPModel.from_pretrained(tmp_path).eval(), CLIPTokenizer.from_pretrained(tmp_path)
    tokens = tokenizer([*SHORT, LONG], padding=True, truncation=True, return_tensors="pt")
    assert tokens.input_ids.shape == (3, 152)
    images = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        theirs = model(pixel_values=images, **tokens).text_embeds
        torch.testing.assert_close(theirs, long.encode_text(long.tokenizer([*SHORT, LONG])), atol=1e-6, rtol=0)
    assert load_clip(pretrained=str(tmp_path), context_length=300).clip.positional_embedding.shape[0] == 300


def test_lengths_and_models_that_cannot_be(weights, tmp_path):
    with pytest.raises(ConfigError, match=r"model.context_length=60 is less than the 77 tokens of degla-tiny"):
        load(weights, context_length=60)
    text = {"context_length": 12, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1, "no_causal_mask": True}
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1}
    config = {"embed_dim": 16, "custom_text": True, "text_cfg": text | {"pool_type": "last"}, "vision_cfg": vision}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    model = open_clip.create_model(f"local-dir:{tmp_path}", load_weights=False)
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"model.context_length=248 needs a causal text tower like CLIP's"):
        load_clip(f"local-dir:{tmp_path}", context_length=248)
