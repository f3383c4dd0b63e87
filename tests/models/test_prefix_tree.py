"""Attention over the prefix tree has the features and gradients of padded groups and of open_clip's full tower."""

import copy
import functools

import open_clip
import pytest
import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, create_mask, flex_attention

from degla.errors import ConfigError
from degla.models import load_clip, packing, text_attention
from degla.models.packing import PackedTexts, pack
from degla.models.text import encode_text
from degla.models.text_attention import block_mask, dense_mask
from tests.models.test_text import assert_same_gradients, build, small

END = 49407
FIRST_WORDS = torch.arange(40)  # of the texts of a batch with long prefixes in common


def random_texts(kind: str, seed: int) -> torch.Tensor:
    """Tokens ``(M, 77)`` of a random batch; few words, so that texts have beginnings in common.

    ``captions alone`` is a batch with K = 0.
    """
    generator = torch.Generator().manual_seed(seed)

    def randint(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator)

    num_texts = {"one text": 1, "captions alone": 5}.get(kind, 12)
    tokens = torch.zeros(num_texts, 77, dtype=torch.int64)
    words = randint(1, 4 if kind != "captions alone" else 9000, num_texts, 77)
    for row in range(num_texts):
        length = int(randint(0, 76, 1)) if kind == "ragged" else int(randint(0, 8, 1))
        body = words[row, :length]
        if kind == "long prefixes":
            body = torch.cat([FIRST_WORDS + 5, body])
        if kind == "all equal":
            body = FIRST_WORDS + 5
        tokens[row, : len(body) + 2] = torch.cat([torch.tensor([END - 1]), body, torch.tensor([END])])
    return tokens


def is_prefix(tree: PackedTexts) -> torch.Tensor:
    """Whether state k is a beginning of state q, as ``(T, T)`` from the texts' own states, for comparison."""
    read = torch.zeros(len(tree.tokens), len(tree.tokens), dtype=torch.bool)
    for row, length in zip((row for group in tree.groups for row in group), tree.lengths, strict=True):
        states = row[:length]
        for position, state in enumerate(states):
            read[state, states[: position + 1]] = True
    return read


@pytest.fixture(scope="module")
def towers():
    return build(small(), custom_text=False)


@pytest.mark.parametrize("kind", ["ragged", "one text", "all equal", "long prefixes", "captions alone", "few words"])
def test_every_path_has_the_same_features_and_gradients(kind, towers, monkeypatch):
    monkeypatch.setattr(packing, "_GROUP_SIZE", 3)
    plain, ours = towers
    for seed in range(2):
        tokens = random_texts(kind, seed)
        lengths = tokens.argmax(1) + 1
        plain.zero_grad()
        expected = plain.encode_text(tokens)
        weights = torch.randn(expected.shape, dtype=torch.float64)
        (expected * weights).sum().backward()
        for with_tree in (False, True):
            ours.zero_grad()
            features = encode_text(ours, pack(tokens, lengths, with_tree=with_tree))
            torch.testing.assert_close(features, expected, rtol=1e-9, atol=1e-12)
            (features * weights).sum().backward()
            assert_same_gradients(plain, ours)


def test_the_intervals_are_the_beginnings(monkeypatch):
    monkeypatch.setattr(packing, "_GROUP_SIZE", 3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        num_texts = int(torch.randint(1, 12, (), generator=generator))
        lengths = torch.randint(1, 7, (num_texts,), generator=generator)
        texts = pack(torch.randint(0, 3, (num_texts, 7), generator=generator), lengths, with_tree=True)
        expected = is_prefix(texts)
        assert torch.equal(dense_mask(texts.tree.states, len(texts.tokens)), expected)
        assert torch.equal(dense_mask(texts.tree.texts, len(texts.last)), expected[texts.last])
        assert texts.last.tolist() == sorted(texts.last.tolist())


def wide_texts(num_texts: int) -> PackedTexts:
    """Texts with several blocks of states, some of which all states of later blocks continue."""
    prefix = torch.arange(150).expand(num_texts, -1)
    words = torch.randint(0, 9, (num_texts, 4), generator=torch.Generator().manual_seed(0))
    return pack(torch.cat([prefix, words], dim=1), torch.full((num_texts,), 154), with_tree=True)


@pytest.mark.parametrize("num_texts", [1, 150, 700])
@pytest.mark.parametrize("queries", ["states", "texts"])
def test_blocks_are_those_of_flex_attention(num_texts, queries):
    """``create_block_mask`` evaluates every pair; ours come from the ends of the intervals."""
    texts = wide_texts(num_texts)
    mask = getattr(texts.tree, queries)
    num_queries = len(texts.tokens if queries == "states" else texts.last)
    ours, dense = block_mask(mask, num_queries), dense_mask(mask, num_queries)
    shape = (num_queries, len(texts.tokens))
    assert torch.equal(create_mask(ours.mask_mod, 1, 1, *shape, device="cpu")[0, 0], dense)
    expected = create_block_mask(ours.mask_mod, None, None, *shape, device="cpu")
    assert ours.shape == expected.shape and ours.BLOCK_SIZE == expected.BLOCK_SIZE
    for name in ("kv_num_blocks", "kv_indices", "q_num_blocks", "q_indices"):
        for kind in ("", "full_"):
            assert torch.equal(getattr(ours, kind + name), getattr(expected, kind + name)), kind + name
    if num_texts == 700:
        assert ours.full_kv_num_blocks.sum() > 0 and ours.sparsity() > 10


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_computes_the_same(towers, monkeypatch):
    """Uncompiled and without gradient, because it has no backward pass on the CPU."""
    _, ours = towers
    texts = wide_texts(20)
    texts = texts._replace(positions=texts.positions % 77)
    with torch.no_grad():
        expected = encode_text(ours, texts)
        monkeypatch.setattr(text_attention, "dense_mask", text_attention.block_mask)
        monkeypatch.setattr(text_attention, "_compiled_flex_attention", lambda: flex_attention)
        torch.testing.assert_close(encode_text(ours, texts), expected, rtol=1e-9, atol=1e-12)


def test_words_have_the_same_features():
    model = load_clip("degla-tiny", text_attention="tree").double()
    model.read_tokens_()
    images = torch.zeros(1, 3, *model.image_size, dtype=torch.uint8)
    tokens = model.tokenizer(["a dog", "a dog and a cat", "two dogs", "a dog"])
    expected, encoding = model(images, tokens), model(images, model.tokenizer.pack(tokens))
    assert torch.equal(encoding.token_mask, expected.token_mask)
    mask = encoding.token_mask[..., None]
    torch.testing.assert_close(encoding.tokens * mask, expected.tokens * mask)
    torch.testing.assert_close(encoding.text, expected.text)


def test_compiled_blocks_serve_every_tree(monkeypatch):
    """A mask of another size does not compile again; in groups, another number of groups does."""
    graphs = []

    def backend(graph, inputs):  # compiling with Inductor is slow, and PyTorch tests it
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(ResidualAttentionBlock, "compile", functools.partialmethod(nn.Module.compile, backend=backend))
    monkeypatch.setattr(packing, "_GROUP_SIZE", 3)
    model = load_clip("degla-tiny", text_attention="tree")
    plain = copy.deepcopy(model)
    model.compile_blocks()
    counts = []
    for num_texts in (4, 7, 13, 21, 5):
        tokens = model.tokenizer([f"a dog and a red cat {i}" for i in range(num_texts)])
        packed = model.tokenizer.pack(tokens)
        torch.testing.assert_close(model.encode_text(packed), plain.encode_text(tokens), rtol=1e-4, atol=1e-5)
        counts.append(len(graphs))
    assert counts[-1] == counts[0]


def test_the_setting_reaches_the_batches():
    tokenizer = load_clip("degla-tiny", text_attention="tree").tokenizer
    tokens = tokenizer(["a dog", "a dog and a cat", "two dogs"])
    assert tokenizer.pack(tokens).tree is not None
    assert load_clip("degla-tiny").tokenizer.pack(tokens).tree is None
    with pytest.raises(ConfigError, match=r"model\.text_attention=forest must be one of groups, tree"):
        load_clip("degla-tiny", text_attention="forest")


def test_packed_texts_move_with_their_tree():
    texts = pack(open_clip.tokenize(["a dog", "a cat"]), torch.tensor([4, 4]), with_tree=True)
    moved = texts.to("meta")
    tensors = [moved.tokens, *moved.groups, *moved.tree.states, *moved.tree.texts]
    assert {tensor.device.type for tensor in tensors} == {"meta"} and type(moved.tree) is type(texts.tree)
