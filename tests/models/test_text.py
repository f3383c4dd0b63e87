"""Packed texts and blocks that skip what is not read give open_clip's features and gradients, or refuse."""

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch.nn.functional import normalize

from degla.models import load_clip, packing
from degla.models.blocks import (
    ClassTokenBlock,
    MemoryEfficientQuickGELU,
    swap_block_classes_,
    takes_packed_texts,
)
from degla.models.packing import pack
from degla.models.text import encode_text, is_causal

CAPTIONS = [
    "a dog",
    "two cats! on a mat",
    "a dog chases a cat",
    "",
    "a dog",
    "the man in the red shirt who holds a very long umbrella " * 8,  # fills the context
    "a cat chases a dog",
    "the man in the red shirt",
]


def small(**text):
    """A small model with a given kind of text tower."""
    return {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3, **text},
    }


def build(config, custom_text):
    """The same weights twice: as open_clip runs them, and as we do."""
    kind = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    torch.manual_seed(0)
    plain = kind(**config).double()
    ours = kind(**config).double()
    ours.load_state_dict(plain.state_dict())
    swap_block_classes_(ours)
    return plain, ours


def packed(texts):
    tokens = open_clip.tokenize(texts)
    return pack(tokens, tokens.argmax(1) + 1)


def assert_same_gradients(plain, ours):
    gradients = dict(plain.named_parameters())
    for name, parameter in ours.named_parameters():
        assert (parameter.grad is None) == (gradients[name].grad is None), name
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("custom_text", [False, True])
@pytest.mark.parametrize("text", [{}, {"pool_type": "eos", "eos_id": 49407}, {"proj_bias": True}, {"layers": 1}])
@pytest.mark.parametrize(("checkpointing", "group_size"), [(False, 2), (True, 64)])
def test_packed_texts_have_the_features_and_gradients_of_full_ones(
    custom_text, text, checkpointing, group_size, monkeypatch
):
    monkeypatch.setattr(packing, "_GROUP_SIZE", group_size)
    plain, ours = build(small(**text), custom_text)
    ours.set_grad_checkpointing(checkpointing)
    assert is_causal(ours) and not is_causal(plain)
    tokens = open_clip.tokenize(CAPTIONS)
    expected = normalize(plain.encode_text(tokens), dim=-1)
    weights = torch.randn(expected.shape, dtype=torch.float64)
    (expected * weights).sum().backward()
    for texts in (packed(CAPTIONS), tokens, tokens[:, :76], tokens.int()):
        ours.zero_grad()
        features = normalize(encode_text(ours, texts), dim=-1)
        if texts is tokens or not isinstance(texts, torch.Tensor):
            torch.testing.assert_close(features, expected, rtol=1e-9, atol=1e-12)
            (features * weights).sum().backward()
            assert_same_gradients(plain, ours)
        else:
            torch.testing.assert_close(features[:5], expected[:5], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(normalize(ours.encode_text(tokens), dim=-1), expected)  # open_clip's way still works


def test_every_beginning_is_kept_once():
    """Against sets of prefixes; and each text can be read back."""
    texts = packed(CAPTIONS)
    tokens = open_clip.tokenize(CAPTIONS)
    rows = [tuple(row[: row.argmax() + 1].tolist()) for row in tokens]
    beginnings = {row[:end] for row in rows for end in range(1, len(row) + 1)}
    assert len(texts.tokens) == len(beginnings) < sum(map(len, rows))
    assert len(texts.lengths) == len(set(rows)) == len(rows) - 1
    of_group = [row for group in texts.groups for row in group]
    for row, number in zip(rows, texts.texts.tolist(), strict=True):
        states = of_group[number][: len(row)]
        assert tuple(texts.tokens[states].tolist()) == row
        assert texts.positions[states].tolist() == list(range(len(row)))
        assert texts.last[number] == states[-1] and texts.lengths[number] == len(row)
    flat = torch.cat([group.flatten() for group in texts.groups])
    assert torch.equal(flat[texts.source], torch.arange(len(texts.tokens)))


def test_packing_is_checked_on_random_texts(monkeypatch):
    monkeypatch.setattr(packing, "_GROUP_SIZE", 3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        rows = int(torch.randint(1, 12, (), generator=generator))
        lengths = torch.randint(1, 7, (rows,), generator=generator)
        tokens = torch.randint(0, 3, (rows, 7), generator=generator)  # few ids: much in common
        texts = pack(tokens, lengths)
        of_group = [row for group in texts.groups for row in group]
        alike = {
            tuple(row[:n].tolist()) for row, length in zip(tokens, lengths, strict=True) for n in range(1, length + 1)
        }
        assert len(texts.tokens) == len(alike)
        for row, length, number in zip(tokens, lengths, texts.texts, strict=True):
            assert torch.equal(texts.tokens[of_group[number][:length]], row[:length])


def test_a_batch_of_one_text():
    plain, ours = build(small(), custom_text=False)
    tokens = open_clip.tokenize(["a dog"])
    torch.testing.assert_close(encode_text(ours, packed(["a dog"])), plain.encode_text(tokens))


@pytest.mark.parametrize("text", [{"no_causal_mask": True}, {"embed_cls": True}, {"pool_type": "last"}])
def test_other_towers_are_not_packed(text):
    _, ours = build(small(**text), custom_text=True)
    assert not is_causal(ours)
    with pytest.raises(ValueError, match="needs all 77 positions"):
        encode_text(ours, open_clip.tokenize(CAPTIONS)[:, :40])
    with pytest.raises(ValueError, match="needs all 77 positions"):
        encode_text(ours, packed(CAPTIONS))


@pytest.mark.parametrize("vision", [{}, {"layers": 1}, {"ls_init_value": 0.1}])
def test_an_image_tower_read_at_its_class_token(vision):
    config = small()
    config["vision_cfg"] |= vision
    plain, ours = build(config, custom_text=False)
    assert isinstance(ours.visual.transformer.resblocks[-1], ClassTokenBlock)
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    expected, features = plain.encode_image(images), ours.encode_image(images)
    torch.testing.assert_close(features, expected, rtol=1e-9, atol=1e-12)
    (expected**2).sum().backward()
    (features**2).sum().backward()
    assert_same_gradients(plain, ours)


@pytest.mark.parametrize("vision", [{"pool_type": "avg"}, {"attentional_pool": True}, {"output_tokens": True}])
def test_other_image_towers_are_left_alone(vision):
    config = small()
    config["vision_cfg"] |= vision
    plain, ours = build(config, custom_text=False)
    assert not any(isinstance(block, ClassTokenBlock) for block in ours.visual.modules())
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(ours.visual(images), plain.visual(images))


def test_bfloat16_sums_the_gradients_of_what_is_shared_in_float32():
    """A thousand texts share their first token; in bfloat16 a sum stops growing after 256 equal parts."""
    texts = [f"{a} {b}" for a in ("cat", "dog", "man", "car") for b in map(str, range(250))]
    clip = load_clip("degla-tiny").clip
    tokens = open_clip.tokenize(texts)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        clip.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            encode_text(clip, packed(texts)).float().sum().backward()
        gradients.append(clip.token_embedding.weight.grad[tokens[0, 0]].clone())
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.999


def test_tokenizer_trims_to_the_longest_caption():
    tokenizer = load_clip("degla-tiny").tokenizer
    assert tokenizer(CAPTIONS[:2]).shape == (2, 8)
    assert tokenizer(["a " * 7]).shape == (1, 9)
    assert tokenizer(["word " * 1000]).shape == (1, 77)
    tokens = tokenizer(CAPTIONS[:5])
    assert torch.equal(tokens, open_clip.tokenize(CAPTIONS[:5])[:, : tokens.shape[1]])
    assert torch.equal(tokenizer.pad(tokenizer.ids(CAPTIONS[:5])), tokens)


def test_truncated_captions_are_detected():
    tokenizer = load_clip("degla-tiny").tokenizer
    assert tokenizer.is_truncated("word " * 1000)
    assert not tokenizer.is_truncated("word " * 75)
    assert tokenizer.is_truncated("word " * 76)


def test_quick_gelu_keeps_one_tensor():
    x = torch.linspace(-9, 9, 1001, dtype=torch.float64).requires_grad_()
    plain, slim = QuickGELU(), MemoryEfficientQuickGELU()
    torch.testing.assert_close(slim(x), plain(x), rtol=1e-12, atol=1e-14)
    gradients = [torch.autograd.grad(gelu(x).sum(), x)[0] for gelu in (slim, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)
    kept = []
    for gelu in (slim, plain):
        kept.append(0)

        def count(saved):
            kept[-1] += saved.ndim > 0
            return saved

        with torch.autograd.graph.saved_tensors_hooks(count, lambda saved: saved):
            gelu(x)
    assert kept == [1, 3]
    clip = load_clip("degla-tiny", quick_gelu=True).clip
    assert {type(block.mlp.gelu) for block in clip.transformer.resblocks} == {MemoryEfficientQuickGELU}


def test_blocks_with_parts_of_their_own_are_left_alone():
    """A block that computes more than we know of keeps open_clip's forward pass."""
    kind = open_clip.CLIP
    torch.manual_seed(0)
    clip = kind(**small()).double()
    expected = clip.encode_text(open_clip.tokenize(CAPTIONS))
    for tower in (clip, clip.visual):
        tower.transformer.resblocks[1].adapter = torch.nn.Identity()
    swap_block_classes_(clip)
    assert {type(block) for block in clip.transformer.resblocks} == {ResidualAttentionBlock}
    assert {type(block) for block in clip.visual.transformer.resblocks} == {ResidualAttentionBlock}
    assert not takes_packed_texts(clip) and not is_causal(clip)
    torch.testing.assert_close(encode_text(clip, open_clip.tokenize(CAPTIONS)), expected)


def test_swapping_classes_keeps_names_and_hooks():
    clip = open_clip.CLIP(**small()).double()
    names, calls = list(clip.state_dict()), []
    clip.transformer.resblocks[0].register_forward_hook(lambda *_: calls.append(1))
    swap_block_classes_(clip)
    encode_text(clip, open_clip.tokenize(CAPTIONS))
    assert takes_packed_texts(clip) and calls == [1] and list(clip.state_dict()) == names
    clip.transformer.resblocks[0].__class__ = ResidualAttentionBlock  # it cannot compute packed states
    assert not takes_packed_texts(clip) and not is_causal(clip)
