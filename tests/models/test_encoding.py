"""Features of patches and words against open_clip's own full towers."""

import copy

import pytest
import torch
import torch.nn.functional as F

from degla.errors import ConfigError
from degla.models import load_clip
from degla.models.blocks import restore_block_classes_

TEXTS = ["a dog", "a dog chases a small cat", "the end", "a dog"]


@pytest.fixture(scope="module")
def models():
    """A model, and a float64 copy with open_clip's own blocks that returns all tokens."""
    torch.manual_seed(0)
    model = load_clip("degla-tiny").double().eval()
    plain = copy.deepcopy(model.clip)
    restore_block_classes_(plain)
    plain.visual.output_tokens = True
    model.read_tokens_()
    return model, plain


def _images():
    return torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)


def test_tokens_equal_those_of_the_full_tower(models):
    model, plain = models
    tokens = model.tokenizer(TEXTS)
    encoding = model(_images(), tokens)
    full = model.tokenizer(TEXTS)
    full = F.pad(full, (0, plain.context_length - full.shape[1]))
    x = plain.token_embedding(full) + plain.positional_embedding
    x = plain.ln_final(plain.transformer(x, attn_mask=plain.attn_mask)) @ plain.text_projection
    ends = full.argmax(-1)
    for row, end in enumerate(ends.tolist()):
        expected = torch.zeros(encoding.tokens.shape[1], dtype=torch.bool)
        expected[1 : end + 1] = True
        assert torch.equal(encoding.token_mask[row], expected)
        torch.testing.assert_close(encoding.tokens[row, 1 : end + 1].double(), x[row, 1 : end + 1], rtol=0, atol=1e-5)
    torch.testing.assert_close(encoding.text.double(), F.normalize(x[range(4), ends], dim=-1), rtol=0, atol=1e-6)


def test_patches_equal_those_of_the_full_tower(models):
    model, plain = models
    images = _images()
    encoding = model(images, model.tokenizer(TEXTS))
    pixels = (images.double() - model.pixel_mean) / model.pixel_std
    pooled, patches = plain.visual(pixels)
    torch.testing.assert_close(encoding.image.double(), F.normalize(pooled, dim=-1), rtol=0, atol=1e-6)
    torch.testing.assert_close(encoding.patches.double(), patches @ plain.visual.proj, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.encode_image(images), encoding.image)
    torch.testing.assert_close(model.encode_text(model.tokenizer(TEXTS)), encoding.text)


def test_features_do_not_change_with_the_tokens():
    torch.manual_seed(0)
    model = load_clip("degla-tiny").eval()
    images, tokens = _images(), model.tokenizer(TEXTS)
    before = model(images, tokens)
    model.read_tokens_()
    after = model(images, tokens)
    assert before.tokens is None and after.tokens is not None
    torch.testing.assert_close(after.image, before.image)
    torch.testing.assert_close(after.text, before.text)


def test_a_model_without_such_states_is_refused():
    with pytest.raises(ConfigError, match="compares patches with words"):
        load_clip("RN50").read_tokens_()
