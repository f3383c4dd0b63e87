"""Terms of other methods within an objective: two ranks against one, ragged batches, duplicates, bad settings."""

import functools

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import SigLipLoss

from degla.errors import ConfigError
from degla.losses import (
    CMR,
    IGC,
    IMC,
    TGC,
    CaptionAgreement,
    ConClip,
    Contrastive,
    Distillation,
    Duplicates,
    Features,
    FocalNegative,
    Objective,
    Paraphrase,
    Sigmoid,
    Term,
    TokenNegative,
    TripletClip,
    UnitContrast,
    con_clip_loss,
    contrastive_loss,
    cross_entropy,
    paraphrase_loss,
    sigmoid_loss,
    tgc_loss,
    triplet_clip_loss,
)
from degla.losses.cross_entropy import row_cross_entropy
from degla.losses.gather import global_batch
from degla.losses.pairwise import row_sigmoid
from tests.helpers.ranks import run_on_ranks
from tests.losses.conftest import random_features
from tests.losses.oracles import cross_entropy as choice
from tests.losses.oracles import dot

ROWS = 6
TIGHT = {"rtol": 1e-9, "atol": 1e-12}


def full_features(rows=ROWS, slots=3, seed=0):
    """Every field of ``Features`` in float64; ragged, with one image twice and one caption twice."""
    generator = torch.Generator().manual_seed(100 + seed)

    def draw(*shape):
        return torch.randn(*shape, 8, generator=generator, dtype=torch.float64)

    def unit(*shape):
        return F.normalize(draw(*shape), dim=-1)

    def mask(*shape):
        return torch.rand(*shape, generator=generator) < 0.6

    masks = {"unit_mask": mask(rows, 2), "paraphrase_mask": mask(rows), "negative_image_mask": mask(rows)}
    masks["second_caption_mask"] = torch.arange(rows) < 2  # none on the second rank
    lengths = torch.randint(1, 5, (rows, 1 + slots, 1), generator=generator)
    token_masks = torch.arange(4) < lengths
    ids = torch.arange(rows) * 2**40 + 7
    return random_features(rows, slots, seed=seed)._replace(
        units=unit(rows, 2), foils=unit(rows, 2), paraphrases=unit(rows), second_captions=unit(rows),
        negative_images=unit(rows), patches=draw(rows, 5), tokens=draw(rows, 4), token_mask=token_masks[:, 0],
        negative_tokens=draw(rows, slots, 4), negative_token_mask=token_masks[:, 1:],
        logit_bias=torch.tensor(-3.0, dtype=torch.float64),
        image_ids=torch.where(torch.arange(rows) == 4, ids[1], ids),  # sample 4 has the image of sample 1
        text_ids=torch.where(torch.arange(rows) == 5, ids[0], ids),  # sample 5 has the caption of sample 0
        **masks,
    )  # fmt: skip


TERMS = {
    "contrastive_own": lambda: {"contrastive": Contrastive(negatives="own")},
    "contrastive_mask": lambda: {"contrastive": Contrastive(duplicates="mask")},
    "contrastive_count": lambda: {"contrastive": Contrastive(negatives="own", duplicates="count")},
    "fsc_clip": lambda: {"contrastive": Contrastive(negatives="none"), "focal": FocalNegative()},
    "token_focal": lambda: {"token_focal": TokenNegative(mask_empty=True)},
    "unit_contrast": lambda: {"unit_contrast": UnitContrast()},
    "paraphrase": lambda: {"paraphrase": Paraphrase()},
    "agreement": lambda: {"agreement": CaptionAgreement()},
    "triplet": lambda: {"triplet": TripletClip()},
    "con_clip": lambda: {"con_clip": ConClip()},
    "sigmoid_own": lambda: {"sigmoid": Sigmoid()},
    "sigmoid_batch": lambda: {"sigmoid": Sigmoid(negatives="batch", duplicates="mask")},
    "tgc_learned": lambda: {"tgc": TGC(scale="learned")},
    "all": lambda: {
        "contrastive": Contrastive(),
        "igc": IGC(0.1),
        "distill": Distillation(0.5),
        "imc": IMC(0.3),
        "cmr": CMR(0.2, num_negatives=3),
        "focal": FocalNegative(),
        "token_focal": TokenNegative(),
        "paraphrase": Paraphrase(),
        "unit_contrast": UnitContrast(),
        "sigmoid": Sigmoid(0.1, duplicates="count"),
    },
}
LEAVES = [name for name, part in full_features()._asdict().items() if part.is_floating_point()]
CASES = [(name, "exact", local, sizes) for name in TERMS for local in (True, False) for sizes in ((3, 3), (4, 2))]
RELEASED = [(name, "released", True, sizes) for name in ("contrastive_own", "all") for sizes in ((3, 3), (4, 2))]


def part_of(features, rows):
    return Features(**{name: part[rows] if part.ndim else part for name, part in features._asdict().items()})


def step(rank, world_size, case):
    """Loss, terms, and each leaf's gradient as DDP would average it."""
    name, gather, local, sizes = case
    sizes = sizes if world_size > 1 else (sum(sizes),)
    start = sum(sizes[:rank])
    rows = slice(start, start + sizes[rank])
    student = part_of(full_features(), rows)
    student = student._replace(**{leaf: getattr(student, leaf).clone().requires_grad_() for leaf in LEAVES})
    teacher = part_of(full_features(seed=1), rows)
    objective = Objective(TERMS[name](), local_loss=local, gather=gather).double()
    losses = objective(student, teacher)
    losses.total.backward()
    gradients = {leaf: (0 if part.grad is None else part.grad) for leaf, part in student._asdict().items()
                 if leaf in LEAVES}  # fmt: skip
    gradients = {leaf: torch.zeros_like(getattr(student, leaf)) + value for leaf, value in gradients.items()}
    values = {key: value.item() for key, value in losses.terms.items()}
    return losses.total.item(), values, {leaf: value / world_size for leaf, value in gradients.items()}


def siglip(rank, world_size):
    """open_clip's loss and ours on this rank's half of the batch, each with its gradients for image, text and bias."""
    student = part_of(full_features(), slice(3 * rank, 3 * rank + 3))
    results = []
    for ours in (False, True):
        image, text, bias = (
            part.clone().requires_grad_() for part in (student.image, student.text, student.logit_bias)
        )
        if ours:
            features = student._replace(image=image, text=text, logit_bias=bias)
            loss = Objective({"sigmoid": Sigmoid(negatives="none")})(features).total
        else:
            loss = SigLipLoss(rank=rank, world_size=world_size)(image, text, student.logit_scale, bias)
        loss.backward()
        results.append([loss.detach(), image.grad, text.grad, bias.grad])
    return results


def all_steps(rank, world_size):
    return [step(rank, world_size, case) for case in CASES + RELEASED], siglip(rank, world_size)


@pytest.fixture(scope="module")
def ranks():
    """Everything that is computed on two ranks, in one start of the processes."""
    results = run_on_ranks(all_steps, 2)
    cases = dict(zip(CASES + RELEASED, zip(*(steps for steps, _ in results), strict=True), strict=True))
    return cases, [siglips for _, siglips in results]


def joined(parts, leaf):
    """The gradient of a leaf over both ranks; scalars are one parameter on both."""
    values = [gradients[leaf] for _, _, gradients in parts]
    return torch.cat(values) if values[0].ndim else sum(values)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_ranks_equal_one(ranks, case):
    parts = ranks[0][case]
    total, terms, gradients = step(0, 1, case)
    assert sum(part[0] for part in parts) / 2 == pytest.approx(total, rel=1e-10)
    for key, value in terms.items():
        assert sum(part[1][key] for part in parts) / 2 == pytest.approx(value, rel=1e-10)
    assert any(gradient.abs().sum() > 0 for gradient in gradients.values())
    for leaf, gradient in gradients.items():
        torch.testing.assert_close(joined(parts, leaf), gradient, **TIGHT)


@pytest.mark.parametrize("case", RELEASED, ids=str)
def test_released_gather_halves_the_gradient_of_features(ranks, case):
    """As in the authors' code; token features are never gathered, so their gradient stays whole."""
    parts = ranks[0][case]
    total, _, gradients = step(0, 1, case)
    assert sum(part[0] for part in parts) / 2 == pytest.approx(total, rel=1e-10)
    for leaf in ("image", "text", "negatives", "paraphrases", "units", "foils"):
        torch.testing.assert_close(2 * joined(parts, leaf), gradients[leaf], **TIGHT)
    torch.testing.assert_close(joined(parts, "logit_scale"), gradients["logit_scale"], **TIGHT)
    torch.testing.assert_close(joined(parts, "tokens"), gradients["tokens"], **TIGHT)


def test_sigmoid_on_two_ranks_is_open_clips(ranks):
    for theirs, ours in ranks[1]:
        for expected, value in zip(theirs, ours, strict=True):
            torch.testing.assert_close(value, expected, **TIGHT)


@pytest.mark.parametrize("name", ["paraphrase", "unit_contrast", "agreement", "focal", "token_focal"])
def test_samples_that_lack_what_a_term_reads_change_nothing(name):
    """Their features may hold anything, and a batch in which all lack it has value 0 and a gradient of 0."""
    term = {"paraphrase": Paraphrase, "unit_contrast": UnitContrast, "agreement": CaptionAgreement,
            "focal": functools.partial(FocalNegative, mask_empty=True),
            "token_focal": functools.partial(TokenNegative, mask_empty=True)}[name]()  # fmt: skip
    features = full_features()
    value = term(features, None, slice(None))
    other = full_features(seed=5)
    filled = features._replace(
        paraphrases=torch.where(features.paraphrase_mask[:, None], features.paraphrases, other.paraphrases),
        foils=torch.where(features.unit_mask[..., None], features.foils, other.foils),
        units=torch.where(features.unit_mask[..., None], features.units, other.units),
        second_captions=torch.where(features.second_caption_mask[:, None], features.second_captions, other.image),
        negatives=torch.where(features.negative_mask[..., None], features.negatives, other.negatives),
    )
    assert filled.units.ne(features.units).any() and value > 0
    torch.testing.assert_close(term(filled, None, slice(None)), value, rtol=1e-12, atol=0)

    empty = {mask: torch.zeros_like(part) for mask, part in features._asdict().items() if mask.endswith("_mask")}
    image, text = features.image.clone().requires_grad_(), features.text.clone().requires_grad_()
    empty |= {"image": image, "text": text, "token_mask": features.token_mask}
    loss = term(features._replace(**empty, units=features.units.clone().requires_grad_()), None, slice(None))
    if name != "token_focal":  # its captions' features are those of tokens
        loss.backward()
        assert all(part.grad is None or not part.grad.abs().any() for part in (image, text))
    assert loss == 0


def test_negative_images_that_are_missing_equal_a_loop():
    v, t, w, n = (full_features(seed=seed).image for seed in range(4))
    mask = torch.tensor([True, False, True, True, False, True])
    numbers = [part.tolist() for part in (v, t, w, n)]
    has = [i for i, valid in enumerate(mask.tolist()) if valid]
    every = range(ROWS)

    def choose(queries, positives, rows, others=(), other_rows=()):
        parts = []
        for i in rows:
            scores = [6 * dot(queries[i], positives[j]) for j in rows if j != i]
            scores += [6 * dot(queries[i], others[j]) for j in other_rows]
            parts.append(choice(6 * dot(queries[i], positives[i]), scores))
        return sum(parts) / len(parts)

    image, text, negative_image, negative_text = numbers
    scale = torch.tensor(6.0, dtype=torch.float64)
    forwards = choose(image, text, every, negative_text, has)
    exchanged = choose(negative_image, negative_text, has, text, every)
    expected = (forwards + choose(text, image, every, negative_image, has) + exchanged) / 3
    assert con_clip_loss(v, t, w, n, scale, mask).item() == pytest.approx(expected, rel=1e-12)
    expected = (forwards + choose(text, image, every) + exchanged + choose(negative_text, negative_image, has)) / 2
    assert triplet_clip_loss(v, t, w, n, scale, mask).item() == pytest.approx(expected, rel=1e-12)
    everyone = torch.ones_like(mask)
    assert torch.equal(con_clip_loss(v, t, w, n, scale, everyone), con_clip_loss(v, t, w, n, scale))


def test_own_negatives_equal_a_loop():
    """Equation 4 of the paper as printed."""
    f = full_features()
    v, t, n, mask = (part.tolist() for part in (f.image, f.text, f.negatives, f.negative_mask))
    total = 0.0
    for i in range(ROWS):
        own = [7.5 * dot(v[i], negative) for negative, valid in zip(n[i], mask[i], strict=True) if valid]
        others = [7.5 * dot(v[i], t[j]) for j in range(ROWS) if j != i]
        total += choice(7.5 * dot(v[i], t[i]), others + own) / 2
        total += choice(7.5 * dot(t[i], v[i]), [7.5 * dot(t[i], v[j]) for j in range(ROWS) if j != i]) / 2
    term = Contrastive(negatives="own")
    assert term(f, None, slice(None)).item() == pytest.approx(total / ROWS, rel=1e-12)
    inputs = [part.clone().requires_grad_() for part in (f.image, f.text, f.negatives, f.logit_scale)]
    assert torch.autograd.gradcheck(
        lambda v, t, n, s: contrastive_loss(v, t, n, f.negative_mask, s, own_negatives=True), inputs
    )


def test_the_learned_scale_of_tgc():
    f, teacher = full_features(), full_features(seed=1)
    value = TGC(scale="learned")(f, teacher, slice(None))
    assert torch.equal(value, tgc_loss(f.text, teacher.text, f.negatives, f.negative_mask, scale=f.logit_scale))
    scale = f.logit_scale.clone().requires_grad_()
    TGC(scale="learned")(f._replace(logit_scale=scale), teacher, slice(None)).backward()
    assert scale.grad.abs() > 0
    fixed = TGC()(f._replace(logit_scale=scale), teacher, slice(None))
    assert not fixed.requires_grad


def alike(f, i, j):
    return i != j and bool(f.image_ids[i] == f.image_ids[j] or f.text_ids[i] == f.text_ids[j])


@pytest.mark.parametrize("treatment", ["mask", "count"])
@pytest.mark.parametrize("own", [False, True])
def test_duplicates_equal_a_loop(treatment, own):
    f = full_features()
    v, t, n, mask = (part.tolist() for part in (f.image, f.text, f.negatives, f.negative_mask))
    total = 0.0
    for i in range(ROWS):
        negatives = [7.5 * dot(v[i], n[j][k]) for j in ([i] if own else range(ROWS)) for k in range(3) if mask[j][k]]
        for query, columns, further in ((v, t, negatives), (t, v, [])):
            scores = [7.5 * dot(query[i], columns[j]) for j in range(ROWS)]
            same = [j for j in range(ROWS) if alike(f, i, j)]
            different = [scores[j] for j in range(ROWS) if j != i and j not in same] + further
            if treatment == "mask":
                total += choice(scores[i], different) / 2
            else:
                correct = [i, *same]
                for j in correct:  # each as the only target, contrasted with every other column
                    others = [scores[k] for k in correct if k != j] + different
                    total += choice(scores[j], others) / len(correct) / 2
    term = Contrastive(negatives="own" if own else "batch", duplicates=treatment)
    assert "identity" in term.needs
    assert term(f, None, slice(None)).item() == pytest.approx(total / ROWS, rel=1e-12)
    duplicates = Duplicates(torch.stack([f.image_ids, f.text_ids]), treatment)
    inputs = [part.clone().requires_grad_() for part in (f.image, f.text, f.negatives, f.logit_scale)]
    assert torch.autograd.gradcheck(
        lambda v, t, n, s: contrastive_loss(v, t, n, f.negative_mask, s, own_negatives=own, duplicates=duplicates),
        inputs,
    )


def test_masked_pairs_have_no_gradient():
    """Sample 1's image and sample 4's caption are a masked pair: neither moves the other's loss."""
    f = full_features()
    text = f.text.clone().requires_grad_()
    loss = Contrastive(duplicates="mask")(f._replace(text=text), None, slice(1, 2))
    loss.backward()
    assert not text.grad[4].any() and text.grad[[0, 1, 2, 3, 5]].abs().sum(1).gt(0).all()
    loss = Sigmoid(duplicates="mask")(f._replace(text=text), None, slice(1, 2))
    (gradient,) = torch.autograd.grad(loss, text)
    assert not gradient[4].any() and gradient[0].any()


@pytest.mark.parametrize("treatment", ["mask", "count"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("term", [Contrastive, functools.partial(Contrastive, negatives="own"), Sigmoid])
def test_without_duplicates_the_result_is_that_of_off_to_the_bit(term, treatment, dtype):
    f = full_features(rows=40)._replace(image_ids=torch.arange(40), text_ids=torch.arange(40) + 2**50)
    results = []
    for duplicates in ("off", treatment):
        parts = {name: getattr(f, name).to(dtype).requires_grad_() for name in ("image", "text", "negatives")}
        scale, bias = f.logit_scale.to(dtype).requires_grad_(), f.logit_bias.to(dtype)
        features = f._replace(**parts, logit_scale=scale, logit_bias=bias)
        loss = term(duplicates=duplicates)(features, None, slice(None))
        results.append([loss, *torch.autograd.grad(loss, [*parts.values(), scale])])
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


@pytest.mark.parametrize("rows", [1, 4, 1000])
def test_blocks_of_any_size_agree(monkeypatch, rows):
    """Own logits, counted rows and duplicates are cut into the same blocks."""
    f = full_features(rows=11)
    inputs = [part.clone().requires_grad_() for part in (f.image, f.text, f.negatives[..., 0], f.logit_bias)]
    duplicates = Duplicates(torch.stack([f.image_ids, f.text_ids]), "count")
    labels, counted = torch.arange(11), f.paraphrase_mask

    def values(queries, columns, own, bias):
        entropy = row_cross_entropy(
            queries, columns, labels, own_logits=own, counted=counted, duplicates=duplicates, valid=None
        )
        return entropy + row_sigmoid(queries, columns, bias, labels, valid=~f.unit_mask[:, 0], duplicates=duplicates)

    expected = values(*inputs)
    gradients = torch.autograd.grad(expected, inputs)
    monkeypatch.setattr(cross_entropy, "_MAX_LOGITS_PER_BLOCK", 1)
    monkeypatch.setattr(cross_entropy, "_MIN_ROWS_PER_BLOCK", rows)
    value = values(*inputs)
    torch.testing.assert_close(value, expected, **TIGHT)
    for gradient, reference in zip(torch.autograd.grad(value, inputs), gradients, strict=True):
        torch.testing.assert_close(gradient, reference, **TIGHT)
    assert torch.autograd.gradcheck(values, inputs)


def test_rows_of_sigmoid_are_parts_of_the_whole():
    f = full_features()
    for negatives in ("own", "batch"):
        parts = [
            sigmoid_loss(*f[:5], f.logit_bias, negatives=negatives, rows=rows) for rows in (slice(0, 2), slice(2, 6))
        ]
        whole = sigmoid_loss(*f[:5], f.logit_bias, negatives=negatives)
        torch.testing.assert_close((2 * parts[0] + 4 * parts[1]) / 6, whole, **TIGHT)


def test_a_paraphrase_mask_of_ones_changes_nothing():
    f = full_features()
    everyone = torch.ones(ROWS, dtype=torch.bool)
    plain = paraphrase_loss(f.paraphrases, f.text, f.logit_scale)
    torch.testing.assert_close(paraphrase_loss(f.paraphrases, f.text, f.logit_scale, everyone), plain, **TIGHT)


def test_thresholds_return_to_zero_with_each_pass():
    """As in CE-CLIP's training script, which makes them anew in every epoch."""
    f = random_features(6)
    term = CMR(num_negatives=3, reset_each_pass=True).double()
    term.batches_per_pass = 2
    values = [term(f, None, slice(None)).item() for _ in range(5)]
    assert values[0] == values[2] == values[4] and values[1] == values[3] != values[0]
    resumed = CMR(num_negatives=3, reset_each_pass=True).double()
    resumed.batches_per_pass = 2
    resumed.load_state_dict(term.state_dict())
    assert resumed(f, None, slice(None)).item() == values[1]
    with pytest.raises(ConfigError, match=r"objective\.terms\.cmr\.reset_each_pass=true needs data of known length"):
        CMR(num_negatives=3, reset_each_pass=True)(f, None, slice(None))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FocalNegative(gamma=-1.0), r"objective\.terms\.focal\.gamma=-1\.0"),
        (lambda: TokenNegative(smoothing=1.0), r"objective\.terms\.token_focal\.smoothing=1\.0"),
        (lambda: Sigmoid(negatives="all"), r"objective\.terms\.sigmoid\.negatives=all must be own, batch or none"),
        (lambda: Contrastive(duplicates="yes"), r"contrastive\.duplicates=yes must be off, mask or count"),
        (lambda: Objective({"igc": IGC()}, gather="half"), r"objective\.gather=half must be exact or released"),
        (
            lambda: TripletClip()(full_features(slots=0), None, slice(None)),
            r"objective\.triplet reads one negative caption per sample: set loader\.num_negatives=1",
        ),
    ],
)
def test_impossible_settings(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_field_that_is_missing_is_named():
    with pytest.raises(ValueError, match=r"Features\.paraphrases"):
        Paraphrase()(random_features(4), None, slice(None))


def test_a_term_of_ones_own():
    """A subclass in five lines takes part in gathering and in the weighted sum."""

    class Spread(Term):
        needs = frozenset({"paraphrases"})

        def forward(self, student, teacher, rows):
            return (student.image - student.paraphrases).square().sum(-1).mean()

    f = full_features()
    losses = Objective({"spread": Spread(weight=0.5)})(f)
    assert losses.total == 0.5 * losses.terms["spread"] and global_batch(ROWS).share == 1
