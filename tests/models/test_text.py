"""Trimmed text towers give the features of the full ones, or refuse."""

import open_clip
import pytest
import torch
from torch.nn.functional import normalize

from degla.models import load_clip
from degla.models.text import can_trim, encode_text

CAPTIONS = ["a dog", "two cats! on a mat", "", "the man in the red shirt who holds a very long umbrella " * 3]


def small(**text):
    """A small model with a given kind of text tower."""
    return {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2, **text},
    }


def build(config, custom_text):
    torch.manual_seed(0)
    kind = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    return kind(**config).eval()


@pytest.mark.parametrize("custom_text", [False, True])
@pytest.mark.parametrize("text", [{}, {"pool_type": "eos", "eos_id": 49407}, {"proj_bias": True}])
def test_trimmed_equals_full_with_gradients(custom_text, text):
    clip = build(small(**text), custom_text).double()
    tokens = open_clip.tokenize(CAPTIONS)
    short = tokens[:, :40]
    assert can_trim(clip)
    results = []
    for ids in (tokens, short):
        clip.zero_grad()
        features = normalize(encode_text(clip, ids), dim=-1)
        features[:, 0].sum().backward()
        tower = clip.text if custom_text else clip
        results.append((features.detach(), tower.token_embedding.weight.grad.clone()))
    for full, trimmed in zip(*results, strict=True):
        torch.testing.assert_close(trimmed, full, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("text", [{"no_causal_mask": True}, {"embed_cls": True}, {"pool_type": "last"}])
def test_other_towers_are_not_trimmed(text):
    clip = build(small(**text), custom_text=True)
    assert not can_trim(clip)
    with pytest.raises(ValueError, match="needs all 77 positions"):
        encode_text(clip, open_clip.tokenize(CAPTIONS)[:, :40])


def test_tokenizer_trims_to_the_longest_caption():
    tokenizer = load_clip("degla-tiny").tokenizer
    assert tokenizer(CAPTIONS[:2]).shape == (2, 8)
    assert tokenizer(["a " * 7]).shape == (1, 16)
    assert tokenizer(["word " * 1000]).shape == (1, 77)
    assert torch.equal(tokenizer(CAPTIONS), open_clip.tokenize(CAPTIONS)[:, : tokenizer(CAPTIONS).shape[1]])


def test_cut_captions_are_noticed():
    tokenizer = load_clip("degla-tiny").tokenizer
    assert tokenizer.is_cut("word " * 1000)
    assert not tokenizer.is_cut("word " * 75)
    assert tokenizer.is_cut("word " * 76)
