"""FlexAttention over the prefix tree against padded groups, forward and backward, on a GPU."""

import copy

import pytest
import torch

from degla.models import load_clip, text_attention
from degla.models.packing import pack
from degla.models.text import encode_text

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

WORDS = ["a", "dog", "cat", "man", "red", "runs", "sits", "on", "grass", "beside", "two", "trees"]


def captions(count: int) -> list[str]:
    generator = torch.Generator().manual_seed(count)
    texts = []
    for _ in range(count):
        length = int(torch.randint(1, 30, (), generator=generator))
        words = torch.randint(0, len(WORDS), (length,), generator=generator)
        texts.append(" ".join(WORDS[word] for word in words))
    return texts


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_the_tree_has_the_features_and_gradients_of_groups(dtype, tolerance):
    """Errors are relative to the largest value; for bfloat16 both paths are compared with float32."""
    model = load_clip("ViT-B-32", quick_gelu=True)
    tokenizer = model.tokenizer
    clip = model.clip.cuda()
    reference = copy.deepcopy(clip).double()
    for count in (300, 7, 1280):  # another number of texts compiles nothing anew
        tokens = tokenizer(captions(count))
        packed = {with_tree: pack(tokens, tokens.argmax(1) + 1, with_tree=with_tree) for with_tree in (False, True)}
        results = {}
        for name, tower, with_tree in (("exact", reference, False), ("groups", clip, False), ("tree", clip, True)):
            tower.zero_grad()
            with torch.autocast("cuda", dtype, enabled=dtype != torch.float32 and tower is clip):
                features = encode_text(tower, packed[with_tree].to("cuda"))
            features.double().square().sum().backward()
            weight = tower.transformer.resblocks[0].attn.in_proj_weight.grad
            results[name] = [features.detach().double(), weight.double()]
        for name in ("groups", "tree"):
            for value, exact in zip(results[name], results["exact"], strict=True):
                error = (value - exact).abs().max() / exact.abs().max()
                assert error < tolerance, (name, count, error)


def test_the_tree_takes_flex_attention():
    texts = pack(torch.ones(2, 3, dtype=torch.int64), torch.tensor([3, 3]), with_tree=True).to("cuda")
    layout = text_attention.attention_layout(texts, torch.float32, 64)
    assert not isinstance(layout.states, torch.Tensor) and layout.states.kv_indices.device.type == "cuda"
    assert isinstance(text_attention.attention_layout(texts, torch.float64, 64).states, torch.Tensor)
