"""Each term against an oracle of plain loops, its gradient, and its properties."""

import pytest
import torch

from degla.losses import (
    cmr_loss,
    cmr_thresholds,
    contrastive_loss,
    distillation_loss,
    igc_loss,
    imc_loss,
    released_distillation_loss,
    released_tgc_loss,
    tgc_loss,
)
from degla.losses.precision import full_precision
from tests.losses import oracles

TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def plain(features):
    return [part.tolist() for part in features[:5]]


@pytest.mark.parametrize(("rows", "slots"), [(6, 3), (5, 1), (1, 4), (4, 0)])
def test_contrastive_equals_loops(make_features, rows, slots):
    f = make_features(rows, slots, ragged=rows > 1 and slots > 0)
    assert contrastive_loss(*f[:5]).item() == pytest.approx(oracles.contrastive(*plain(f)), rel=1e-12)


def test_contrastive_rows_are_parts_of_the_whole(make_features):
    f = make_features(6)
    parts = contrastive_loss(*f[:5], rows=slice(0, 2)) * 2 + contrastive_loss(*f[:5], rows=slice(2, 6)) * 4
    torch.testing.assert_close(parts / 6, contrastive_loss(*f[:5]), **TIGHT)


@pytest.mark.parametrize(("rows", "slots"), [(6, 3), (1, 4), (4, 0)])
def test_igc_equals_loops(make_features, rows, slots):
    f = make_features(rows, slots, ragged=rows > 1 and slots > 0)
    assert igc_loss(*f[:5]).item() == pytest.approx(oracles.igc(*plain(f)), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("scale", [10.0, 3.0])
def test_tgc_equals_loops(make_features, scale):
    f, teacher = make_features(6), make_features(6, seed=1)
    value = tgc_loss(f.text, teacher.text, f.negatives, f.negative_mask, scale=scale)
    expected = oracles.tgc(
        f.text.tolist(), teacher.text.tolist(), f.negatives.tolist(), f.negative_mask.tolist(), scale
    )
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_tgc_scale_is_ten_by_default(make_features):
    f = make_features(4)
    args = (f.text, make_features(4, seed=1).text, f.negatives, f.negative_mask)
    assert tgc_loss(*args) == tgc_loss(*args, scale=10.0)


def test_distillation_equals_loops_and_is_a_mean_over_rows(make_features):
    f, teacher = make_features(6), make_features(6, seed=1)
    value = distillation_loss(*f[:3], *teacher[:3], f.negative_mask)
    expected = oracles.distillation_sum(*plain(f[:3]), *plain(teacher[:3]), f.negative_mask.tolist()) / 6
    assert value.item() == pytest.approx(expected, rel=1e-12)
    twice = [torch.cat([part, part]) for part in (*f[:3], *teacher[:3], f.negative_mask)]
    torch.testing.assert_close(distillation_loss(*twice), value, **TIGHT)


def test_distillation_weight_of_the_paper(make_features):
    """1.28 x the mean is 0.005 x the sum at a global batch of 256, as docs/losses.md says."""
    f, teacher = make_features(256, 4, 16, ragged=False), make_features(256, 4, 16, seed=1, ragged=False)
    mean = distillation_loss(*f[:3], *teacher[:3], f.negative_mask)
    total = released_distillation_loss(*f[:3], *teacher[:3])
    torch.testing.assert_close(1.28 * mean, 0.005 * total, **TIGHT)


def test_distillation_is_zero_at_equality_only(make_features):
    f = make_features(4)
    assert distillation_loss(*f[:3], *f[:3], f.negative_mask) == 0
    assert distillation_loss(*f[:3], *make_features(4, seed=1)[:3], f.negative_mask) > 0


def test_released_tgc_equals_loops(make_features):
    f, teacher = make_features(8, 4, ragged=False), make_features(8, 4, seed=1)
    value = released_tgc_loss(f.text, teacher.text, f.negatives)
    expected = oracles.released_tgc(f.text.tolist(), teacher.text.tolist(), f.negatives.tolist(), 10.0)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_released_tgc_is_the_papers_for_one_row(make_features):
    f, teacher = (make_features(1, 4, seed=seed, ragged=False) for seed in (0, 1))
    torch.testing.assert_close(
        released_tgc_loss(f.text, teacher.text, f.negatives),
        tgc_loss(f.text, teacher.text, f.negatives, f.negative_mask),
        **TIGHT,
    )


def test_imc_equals_loops(make_features):
    f = make_features(6)
    assert imc_loss(*f[:5]).item() == pytest.approx(oracles.imc(*plain(f)), rel=1e-12)


def test_cmr_and_its_thresholds_equal_loops(make_features):
    f = make_features(6)
    th = [0.5, 0.0, 4.0]
    value = cmr_loss(*f[:5], torch.tensor(th, dtype=torch.float64))
    assert value.item() == pytest.approx(oracles.cmr(*plain(f), th), rel=1e-12)
    sums, counts = cmr_thresholds(*f[:5])
    means = sums / counts
    ours = (means[0] - means[1:]).clamp(0, 10)
    assert ours.tolist() == pytest.approx(oracles.thresholds(*plain(f), 10.0), rel=1e-12)


def _terms():
    def tgc(v, t, n, mask, s):
        return tgc_loss(t, v.detach(), n, mask)

    def distill(v, t, n, mask, s):
        return distillation_loss(v, t, n, v.detach() + 0.1, t.detach() - 0.2, n.detach() + 0.3, mask)

    def cmr(v, t, n, mask, s):
        return cmr_loss(v, t, n, mask, s, torch.full((n.shape[1],), 2.0, dtype=v.dtype))

    def released(v, t, n, mask, s):
        return released_tgc_loss(t, v.detach(), n) + released_distillation_loss(
            v, t, n, v.detach() + 0.1, t.detach(), n.detach() - 0.1
        )

    return [contrastive_loss, igc_loss, imc_loss, tgc, distill, cmr, released]


@pytest.mark.parametrize("term", _terms(), ids=lambda term: term.__name__)
def test_gradients(make_features, term):
    f = make_features(4, 2, 5)
    inputs = [part.clone().requires_grad_() for part in (f.image, f.text, f.negatives, f.logit_scale)]
    # `tgc` and the like detach an input on purpose: numbers would see through that, so it stays fixed here.
    fixed = f.image.clone()

    def run(v, t, n, s):
        image = v if term.__name__ in ("contrastive_loss", "igc_loss", "imc_loss", "cmr") else fixed
        if term.__name__ in ("distill", "released"):
            teacher = make_features(4, 2, 5, seed=3)
            if term.__name__ == "distill":
                return distillation_loss(v, t, n, *teacher[:3], f.negative_mask)
            return released_tgc_loss(t, teacher.text, n) + released_distillation_loss(v, t, n, *teacher[:3])
        return term(image, t, n, f.negative_mask, s)

    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("term", [contrastive_loss, igc_loss, imc_loss])
def test_masked_negatives_do_not_matter(make_features, term):
    f = make_features(5)
    other = torch.where(f.negative_mask[..., None], f.negatives, torch.full_like(f.negatives, 5.0))
    changed = f._replace(negatives=other.requires_grad_())
    loss = term(*changed[:5])
    torch.testing.assert_close(loss, term(*f[:5]), **TIGHT)
    loss.backward()
    assert (other.grad[~f.negative_mask] == 0).all() and other.grad.isfinite().all()


def test_a_batch_without_any_negative_is_finite(make_features):
    f = make_features(4)
    f = f._replace(negative_mask=torch.zeros_like(f.negative_mask), negatives=f.negatives.requires_grad_())
    assert igc_loss(*f[:5]) == 0
    loss = contrastive_loss(*f[:5]) + igc_loss(*f[:5]) + imc_loss(*f[:5])
    loss.backward()
    assert f.negatives.grad.abs().sum() == 0


def shuffled_elsewhere(f, row):
    """The same batch with every negative of the other rows moved to another row."""
    others = [i for i in range(len(f.image)) if i != row]
    order = torch.arange(len(f.image))
    order[others] = torch.tensor(others[1:] + others[:1])
    return f._replace(negatives=f.negatives[order])


def test_other_rows_negatives_do_not_touch_a_row(make_features):
    """A row's part of IGC and TGC, read off the gradient of the loss by that row's query."""
    f, teacher = make_features(6, 4, ragged=False), make_features(6, 4, seed=1)

    def row_gradient(loss, features, row):
        features = features._replace(
            image=features.image.clone().requires_grad_(), text=features.text.clone().requires_grad_()
        )
        loss(features).backward()
        grads = [part.grad[row] for part in (features.image, features.text) if part.grad is not None]
        return torch.cat(grads)

    def igc(x):
        return igc_loss(*x[:5])

    def tgc(x):
        return tgc_loss(x.text, teacher.text, x.negatives, x.negative_mask)

    def released(x):
        return released_tgc_loss(x.text, teacher.text, x.negatives)

    for row in range(6):
        moved = shuffled_elsewhere(f, row)
        for loss in (igc, tgc):
            torch.testing.assert_close(row_gradient(loss, f, row), row_gradient(loss, moved, row), **TIGHT)
        assert not torch.allclose(row_gradient(released, f, row), row_gradient(released, moved, row))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_converted_before_the_softmax(make_features, dtype):
    f = make_features(6, dtype=dtype)
    exact = make_features(6, dtype=dtype)
    exact = exact._replace(
        **{name: getattr(exact, name).double() for name in ("image", "text", "negatives", "logit_scale")}
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = contrastive_loss(*f[:5])
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(contrastive_loss(*exact[:5]).item(), rel=1e-5)


def test_teacher_gets_no_gradient(make_features):
    f, teacher = make_features(4), make_features(4, seed=1)
    parts = [part.requires_grad_() for part in teacher[:3]]
    text = f.text.clone().requires_grad_()
    loss = tgc_loss(text, parts[1], f.negatives, f.negative_mask)
    loss = loss + distillation_loss(f.image, text, f.negatives, *parts, f.negative_mask)
    loss.backward()
    assert text.grad is not None and all(part.grad is None for part in parts)


class _Record(torch.autograd.Function):
    """Multiplies by 2, and notes the precision of matrix products in the backward pass."""

    seen: list[str] = []

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        _Record.seen.append(torch.get_float32_matmul_precision())
        return 2 * grad


def test_the_backward_pass_of_losses_is_not_in_tf32(make_features):
    """The gradient is that of a run without TF32, also for half precision, unused and repeated arguments."""

    @full_precision
    def loss(features, scale, unused=None, other=None):
        return (scale * (_Record.apply(features) @ other.T)).square().mean()

    f = make_features(4)
    before = torch.get_float32_matmul_precision()
    gradients = {}
    try:
        for setting in ("highest", "high"):
            _Record.seen = []
            torch.set_float32_matmul_precision(setting)
            text = f.text.to(torch.bfloat16).requires_grad_()
            image, unused, scale = (tensor.float().requires_grad_() for tensor in (f.image, f.image, torch.tensor(3.0)))
            value = loss(text, scale, unused=unused, other=image) + loss(text, 2.0, other=image)
            value.backward(retain_graph=True)
            value.backward()
            assert torch.get_float32_matmul_precision() == setting and set(_Record.seen) == {"highest"}
            assert unused.grad is None and loss(f.text, 2.0, other=f.image).dtype == f.text.dtype
            gradients[setting] = [text.grad, image.grad, scale.grad]
    finally:
        torch.set_float32_matmul_precision(before)
    for exact, guarded in zip(*gradients.values(), strict=True):
        torch.testing.assert_close(guarded, exact)


def test_losses_are_not_computed_in_tf32(make_features):
    """`float32_matmul=high` is for the towers."""
    seen = []

    @full_precision
    def loss(features):
        seen.append(torch.get_float32_matmul_precision())
        return features.sum()

    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        loss(make_features(2).text)
        assert seen == ["highest"] and torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
