"""Terms of other methods: against plain loops, the authors' own values, open_clip, and their gradients."""

import functools
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import SigLipLoss

from degla.losses import (
    caption_agreement_loss,
    con_clip_loss,
    contrastive_loss,
    focal_negative_loss,
    paraphrase_loss,
    sigmoid_loss,
    token_negative_loss,
    triplet_clip_loss,
    unit_contrast_loss,
)
from tests.losses.oracles import cross_entropy, dot

RECORDED = Path(__file__).parents[3] / "shared" / "data" / "peer_losses" / "peer_losses.json"


def unit(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def softmax_focal(logits, targets, gamma):
    """``targets`` may be shorter than ``logits``: what is left has target 0."""
    total = math.fsum(math.exp(logit - max(logits)) for logit in logits)
    probabilities = [math.exp(logit - max(logits)) / total for logit in logits]
    return math.fsum(-y * (1 - p) ** gamma * math.log(p) for y, p in zip(targets, probabilities, strict=False) if y)


def focal_loops(scores, mask, gamma, smoothing, mask_empty):
    """``scores``: ``(B, 1 + K)`` numbers."""
    losses = []
    for row, valid in zip(scores, mask, strict=True):
        if not any(valid):
            continue
        share = smoothing / (1 + sum(valid))
        kept = [score for score, is_valid in zip(row[1:], valid, strict=True) if is_valid]
        empty = [] if mask_empty else [0.0] * (len(valid) - len(kept))
        losses.append(softmax_focal([row[0], *kept, *empty], [1 - smoothing + share] + [share] * len(kept), gamma))
    return math.fsum(losses) / len(losses)


@pytest.mark.parametrize("mask_empty", [False, True])
@pytest.mark.parametrize(("gamma", "smoothing"), [(2.0, 0.02), (0.0, 0.0), (1.0, 0.3)])
def test_focal_equals_loops(make_features, gamma, smoothing, mask_empty):
    f = make_features(6, 3)
    scale = float(f.logit_scale)
    scores = [
        [scale * dot(v, t), *(scale * dot(v, n) for n in ns)]
        for v, t, ns in zip(f.image.tolist(), f.text.tolist(), f.negatives.tolist(), strict=True)
    ]
    value = focal_negative_loss(*f[:5], gamma=gamma, smoothing=smoothing, mask_empty=mask_empty)
    expected = focal_loops(scores, f.negative_mask.tolist(), gamma, smoothing, mask_empty)
    assert value.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("mask_empty", [False, True])
def test_focal_without_any_negative_is_zero_with_a_finite_gradient(make_features, mask_empty, gamma):
    f = make_features(4, 2)
    image = f.image.clone().requires_grad_()
    missing = torch.zeros(4, 2, dtype=torch.bool)
    loss = focal_negative_loss(image, f.text, f.negatives, missing, f.logit_scale, gamma=gamma, mask_empty=mask_empty)
    loss.backward()
    assert loss.item() == 0 and image.grad.abs().sum() == 0


def random_tokens(seed=0):
    """Three samples, two slots, four tokens, five patches; ragged; the last sample has no negative."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mask = torch.tensor([[True, True], [True, False], [False, False]])
    lengths = torch.tensor([[3, 2], [4, 0], [0, 0]])
    token_mask = torch.arange(4) < torch.tensor([4, 2, 1])[:, None]
    return {
        "patch_features": draw(3, 5, 8),
        "token_features": draw(3, 4, 8),
        "token_mask": token_mask,
        "negative_token_features": draw(3, 2, 4, 8),
        "negative_token_mask": torch.arange(4) < lengths[..., None],
        "negative_mask": mask,
        "logit_scale": torch.tensor(4.0, dtype=torch.float64),
    }


def text_score(patches, tokens, mask, scale):
    terms = []
    for token, counts in zip(tokens, mask, strict=True):
        if not counts:
            continue
        products = [dot(token, patch) for patch in patches]
        weights = [(p - min(products)) / (max(products) - min(products)) for p in products]
        attended = [
            math.fsum(w / math.fsum(weights) * patch[d] for w, patch in zip(weights, patches, strict=True))
            for d in range(len(token))
        ]
        cosine = dot(attended, token) / math.sqrt(dot(attended, attended) * dot(token, token))
        terms.append(math.exp(scale * cosine))
    return math.log(math.fsum(terms)) if terms else 0.0


@pytest.mark.parametrize("mask_empty", [False, True])
def test_token_term_equals_loops(mask_empty):
    x = random_tokens()
    scores = [
        [
            text_score(patches, tokens, mask, 4.0),
            *(text_score(patches, t, m, 4.0) for t, m in zip(ns, nms, strict=True)),
        ]
        for patches, tokens, mask, ns, nms in zip(
            *(x[name].tolist() for name in ("patch_features", "token_features", "token_mask")),
            *(x[name].tolist() for name in ("negative_token_features", "negative_token_mask")),
            strict=True,
        )
    ]
    expected = focal_loops(scores, x["negative_mask"].tolist(), 2.0, 0.02, mask_empty)
    assert token_negative_loss(**x, mask_empty=mask_empty).item() == pytest.approx(expected, rel=1e-12)


def test_token_term_gradient():
    """The attention is a constant for the gradient, so the check holds it fixed by differentiating tokens only."""
    x = random_tokens()
    for name in ("patch_features", "token_features", "negative_token_features"):
        x[name] = x[name].requires_grad_()
    token_negative_loss(**x).backward()
    for name in ("patch_features", "token_features", "negative_token_features"):
        assert x[name].grad.isfinite().all() and x[name].grad.abs().sum() > 0
    assert x["negative_token_features"].grad[~x["negative_token_mask"]].abs().sum() == 0


def test_units_equal_loops():
    images, units, foils = unit(5, 8, seed=1), unit(5, 3, 8, seed=2), unit(5, 3, 8, seed=3)
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]]).bool()
    slots = []
    for k in range(3):
        rows = [i for i in range(5) if mask[i, k]]
        parts = []
        for i in rows:
            v, u, foil = images[i].tolist(), units[i, k].tolist(), foils[i, k].tolist()
            others = [9 * dot(v, units[j, k].tolist()) for j in rows if j != i] + [9 * dot(v, foil)]
            parts.append(cross_entropy(9 * dot(v, u), others) / 2)
            parts[-1] += cross_entropy(9 * dot(u, v), [9 * dot(u, images[j].tolist()) for j in rows if j != i]) / 2
        slots.append(math.fsum(parts) / len(parts) if parts else 0.0)
    value = unit_contrast_loss(images, units, foils, mask, torch.tensor(9.0, dtype=torch.float64))
    assert value.item() == pytest.approx(math.fsum(slots) / 3, rel=1e-12)


def test_paraphrase_and_agreement_equal_loops():
    first, second = unit(4, 8, seed=1), unit(4, 8, seed=2)
    a, b = first.tolist(), second.tolist()
    expected = [cross_entropy(5 * dot(a[i], b[i]), [5 * dot(a[i], b[j]) for j in range(4) if j != i]) for i in range(4)]
    value = paraphrase_loss(first, second, torch.tensor(5.0, dtype=torch.float64))
    assert value.item() == pytest.approx(math.fsum(expected) / 4, rel=1e-12)
    assert caption_agreement_loss(first, second).item() == pytest.approx(
        math.fsum(2 - 2 * dot(x, y) for x, y in zip(a, b, strict=True)) / 4, rel=1e-12
    )
    assert caption_agreement_loss(first, first) == 0


def test_negative_images_equal_loops():
    v, t, w, n = (unit(4, 8, seed=seed) for seed in range(4))
    scale = torch.tensor(6.0, dtype=torch.float64)

    def choose(queries, positives, negatives):
        q, p, m = queries.tolist(), positives.tolist(), negatives.tolist()
        parts = [
            cross_entropy(
                6 * dot(q[i], p[i]), [6 * dot(q[i], p[j]) for j in range(4) if j != i] + [6 * dot(q[i], x) for x in m]
            )
            for i in range(4)
        ]
        return math.fsum(parts) / 4

    expected = (choose(v, t, n) + choose(t, v, w) + choose(w, n, t)) / 3
    assert con_clip_loss(v, t, w, n, scale).item() == pytest.approx(expected, rel=1e-12)

    full = torch.ones(4, 1, dtype=torch.bool)
    expected = contrastive_loss(v, t, n[:, None], full, scale) + contrastive_loss(w, n, t[:, None], full, scale)
    assert triplet_clip_loss(v, t, w, n, scale).item() == pytest.approx(expected.item(), rel=1e-12)


def test_sigmoid_without_negatives_is_open_clips(make_features):
    f = make_features(6, 0, dtype=torch.float32, ragged=False)
    bias = torch.tensor(-3.0)
    expected = SigLipLoss()(f.image, f.text, f.logit_scale, bias)
    torch.testing.assert_close(sigmoid_loss(*f[:5], logit_bias=bias), expected)


@pytest.mark.parametrize("negatives", ["own", "batch"])
def test_sigmoid_equals_loops(make_features, negatives):
    f = make_features(5, 2)
    s, b = 7.5, -2.0
    total = 0.0
    for i, v in enumerate(f.image.tolist()):
        for j, t in enumerate(f.text.tolist()):
            sign = 1 if i == j else -1
            total += math.log1p(math.exp(-sign * (s * dot(v, t) + b)))
        for j in range(5) if negatives == "batch" else [i]:
            for n, valid in zip(f.negatives[j].tolist(), f.negative_mask[j].tolist(), strict=True):
                total += math.log1p(math.exp(s * dot(v, n) + b)) if valid else 0
    bias = torch.tensor(b, dtype=torch.float64)
    assert sigmoid_loss(*f[:5], logit_bias=bias, negatives=negatives).item() == pytest.approx(total / 5, rel=1e-12)


def test_gradients(make_features):
    f = make_features(4, 2)
    inputs = [part.clone().requires_grad_() for part in (f.image, f.text, f.negatives, f.logit_scale)]
    bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)

    def with_mask(loss, image, text, negatives, scale, *rest):
        return loss(image, text, negatives, f.negative_mask, scale, *rest)

    for mask_empty in (False, True):
        loss = functools.partial(focal_negative_loss, mask_empty=mask_empty)
        assert torch.autograd.gradcheck(functools.partial(with_mask, loss), inputs)
    assert torch.autograd.gradcheck(functools.partial(with_mask, sigmoid_loss), [*inputs, bias])
    units = functools.partial(unit_contrast_loss, unit_mask=f.negative_mask)
    foils = unit(4, 2, 8, seed=9).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda image, first, second, scale: units(image, first, second, logit_scale=scale),
        [inputs[0], inputs[2], foils, inputs[3]],
    )
    for loss in (triplet_clip_loss, con_clip_loss):
        others = [unit(4, 8, seed=seed).requires_grad_() for seed in (5, 6)]
        assert torch.autograd.gradcheck(loss, [inputs[0], inputs[1], *others, inputs[3]])


def test_half_precision_is_converted_to_float32(make_features):
    f = make_features(4, 2, dtype=torch.bfloat16)
    for loss in (
        focal_negative_loss(*f[:5]),
        sigmoid_loss(*f[:5], logit_bias=torch.tensor(-1.0)),
        unit_contrast_loss(f.image, f.negatives, f.negatives, f.negative_mask, f.logit_scale),
        paraphrase_loss(f.image, f.text, f.logit_scale),
        caption_agreement_loss(f.image, f.text),
        con_clip_loss(f.image, f.text, f.text, f.image, f.logit_scale),
    ):
        assert loss.dtype == torch.float32 and loss.isfinite()


@pytest.fixture(scope="module")
def recorded():
    if not RECORDED.is_file():
        pytest.skip(f"the recorded values of the authors' functions are not here ({RECORDED})")
    return json.loads(RECORDED.read_text())


def tensors(record, *names):
    return [torch.tensor(record[name]) for name in names]


def test_the_authors_values(recorded):
    """The weights 0.5 and 0.2 are FSC-CLIP's own; its recorded values contain them."""
    image, text, negatives, mask = tensors(recorded, "image", "text", "negatives", "negative_mask")
    scale = torch.tensor(recorded["logit_scale"])
    local, units = recorded["fsc_local"], recorded["cs_units"]
    words = tensors(local, "patches", "words", "word_mask", "negative_words", "negative_word_mask")
    (first,) = tensors(recorded["tripletclip"], "negative_images")
    (second,) = tensors(recorded["conclip"], "negative_images")
    (paraphrases,) = tensors(recorded["read_align"], "paraphrases")
    values = {
        "fsc_global": 0.5 * focal_negative_loss(image, text, negatives, mask, scale),
        "fsc_local": 0.2 * token_negative_loss(*words, mask, scale),
        "cs_units": unit_contrast_loss(image, *tensors(units, "units", "foils", "unit_mask"), scale),
        "read_align": paraphrase_loss(paraphrases, text, scale),
        "tripletclip": triplet_clip_loss(image, text, first, negatives[:, 0], scale),
        "conclip": con_clip_loss(image, text, second, negatives[:, 0], scale),
    }
    expected = {
        "fsc_global": recorded["fsc_global"]["clip_neg_loss"],
        "fsc_local": local["terms"]["local_neg_loss"],
        **{name: recorded[name]["loss"] for name in ("cs_units", "read_align", "tripletclip", "conclip")},
    }
    assert {name: value.item() for name, value in values.items()} == pytest.approx(expected, rel=1e-5)


def test_the_authors_gradients(recorded):
    """Sums of absolute gradients of FSC-CLIP's contrastive and global terms together."""
    image, text, negatives, mask = tensors(recorded, "image", "text", "negatives", "negative_mask")
    scale = torch.tensor(recorded["logit_scale"])
    image, negatives = image.requires_grad_(), negatives.requires_grad_()
    contrast = contrastive_loss(image, text, negatives[:, :0], mask[:, :0], scale)
    assert contrast.item() == pytest.approx(recorded["fsc_global"]["clip_loss"], rel=1e-5)
    (contrast + 0.5 * focal_negative_loss(image, text, negatives, mask, scale)).backward()
    sums = {"image": image.grad.abs().sum().item(), "negatives": negatives.grad.abs().sum().item()}
    expected = {name: recorded["fsc_global"][f"grad_{name}_sum"] for name in sums}
    assert sums == pytest.approx(expected, rel=1e-5)
