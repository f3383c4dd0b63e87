"""The block-wise cross-entropy against PyTorch's, whatever the size of a block."""

import pytest
import torch
import torch.nn.functional as F

from degla.losses import cross_entropy
from degla.losses.cross_entropy import row_cross_entropy


def arguments(rows=7, columns=11, dim=5):
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(rows, dim, dtype=torch.float64, generator=generator).requires_grad_()
    keys = torch.randn(columns, dim, dtype=torch.float64, generator=generator).requires_grad_()
    labels = torch.randint(0, columns, (rows,), generator=generator)
    valid = torch.rand(columns, generator=generator) < 0.6
    valid[labels] = True
    return queries, keys, labels, valid


@pytest.fixture(params=[1, 30, 2**24], ids=["a row at a time", "some rows at a time", "all at once"])
def block(request, monkeypatch):
    monkeypatch.setattr(cross_entropy, "_MAX_LOGITS_PER_BLOCK", request.param)
    monkeypatch.setattr(cross_entropy, "_MIN_ROWS_PER_BLOCK", 1)


@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradient(block, masked):
    queries, keys, labels, valid = arguments()
    valid = valid if masked else None
    logits = queries @ keys.T
    expected = F.cross_entropy(logits.masked_fill(~valid, float("-inf")) if masked else logits, labels)
    value = row_cross_entropy(queries, keys, labels, valid)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    for computed, reference in zip(
        torch.autograd.grad(3 * value, (queries, keys)), torch.autograd.grad(3 * expected, (queries, keys)), strict=True
    ):
        torch.testing.assert_close(computed, reference, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda q, k: row_cross_entropy(q, k, labels, valid), (queries, keys))


def test_only_inputs_that_require_a_gradient_get_one(block):
    queries, keys, labels, _ = arguments()
    row_cross_entropy(queries, keys.detach(), labels).backward()
    assert queries.grad is not None and keys.grad is None
    with torch.no_grad():
        assert not row_cross_entropy(queries, keys, labels).requires_grad


def test_the_widest_tensor_is_a_block(monkeypatch):
    monkeypatch.setattr(cross_entropy, "_MAX_LOGITS_PER_BLOCK", 1)
    monkeypatch.setattr(cross_entropy, "_MIN_ROWS_PER_BLOCK", 64)
    sizes = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend(part.numel() for part in (out if isinstance(out, tuple) else [out]) if torch.is_tensor(part))
            return out

    queries, keys, labels, _ = arguments(rows=300, columns=100)
    with Sizes():
        row_cross_entropy(queries, keys, labels).backward()
    assert max(sizes) == 64 * 100
