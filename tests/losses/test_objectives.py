"""Weighted sums: what they add up, what they skip, and two ranks against one."""

import ast
import copy
from collections import namedtuple
from pathlib import Path

import pytest
import torch

import degla.losses as losses_package
from degla.errors import ConfigError
from degla.losses import (
    Features,
    contrastive_loss,
    distillation_loss,
    igc_loss,
    tgc_loss,
)
from tests.helpers.objectives import ce_clip, clip, degla, released
from tests.helpers.ranks import run_on_ranks
from tests.losses.conftest import random_features


def test_total_is_the_weighted_sum_of_the_terms(make_features):
    f, teacher = make_features(6), make_features(6, seed=1)
    losses = degla(contrastive=1.0, igc=0.1, tgc=0.2, distill=1.28)(f, teacher)
    expected = (
        contrastive_loss(*f[:5])
        + 0.1 * igc_loss(*f[:5])
        + 0.2 * tgc_loss(f.text, teacher.text, f.negatives, f.negative_mask)
        + 1.28 * distillation_loss(*f[:3], *teacher[:3], f.negative_mask)
    )
    torch.testing.assert_close(losses.total, expected)
    assert set(losses.terms) == {"contrastive", "igc", "tgc", "distill"}


def test_weight_zero_is_not_computed(make_features):
    objective = degla(tgc=0, distill=0)
    assert not objective.uses_teacher and objective.uses_negatives
    assert set(objective(make_features(4), None).terms) == {"contrastive", "igc"}
    plain = clip()
    assert not plain.uses_teacher and not plain.uses_negatives


def test_plain_clip_does_not_see_negatives(make_features):
    f = make_features(5)
    plain = clip()
    without = f._replace(negatives=f.negatives[:, :0], negative_mask=f.negative_mask[:, :0])
    torch.testing.assert_close(plain(f).total, contrastive_loss(*without[:5]))


def test_released_refuses_ragged_rows(make_features):
    with pytest.raises(ConfigError, match="objective=degla"):
        released()(make_features(4), make_features(4))


@pytest.mark.parametrize("objective", [degla(), released(), ce_clip(num_negatives=3)])
def test_the_order_of_the_fields_of_features_does_not_matter(make_features, objective):
    Reordered = namedtuple("Reordered", tuple(reversed(Features._fields)))
    student, teacher = make_features(4, ragged=False), make_features(4, seed=1, ragged=False)
    objective = objective.double()
    again = copy.deepcopy(objective)
    expected = objective(student, teacher)
    losses = again(Reordered(**student._asdict()), Reordered(**teacher._asdict()))
    assert torch.equal(losses.total, expected.total) and losses.terms == expected.terms


def test_features_are_built_with_keywords():
    """Nothing in the package relies on the order of the fields: neither calls of ``Features`` nor slices of it."""
    package = Path(losses_package.__file__).parents[1]
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Features":
                assert not node.args, f"{path}:{node.lineno} builds Features by position"


def test_ce_clip_thresholds_follow_the_last_step_and_are_kept(make_features):
    f = make_features(6, dtype=torch.float32)
    objective = ce_clip(num_negatives=3)
    first = objective(f).terms["cmr"]
    assert objective.terms["cmr"].thresholds.max() > 0
    second = objective(f).terms["cmr"]
    assert first != second
    assert "terms.cmr.thresholds" in objective.state_dict()
    objective.eval()
    kept = objective.terms["cmr"].thresholds.clone()
    objective(make_features(6, seed=2, dtype=torch.float32))
    assert torch.equal(objective.terms["cmr"].thresholds, kept)


OBJECTIVES = {
    "degla": lambda local: degla(igc=0.5, tgc=0.5, local_loss=local),
    "ce_clip": lambda local: ce_clip(num_negatives=3, local_loss=local).double(),
    "clip": lambda local: clip(local_loss=local),
    "released": lambda local: released(),
}


def _shard(rank, world_size, name, local, leaves, teacher, mask, sizes):
    """Loss and gradients as DDP would average them."""
    start = sum(sizes[:rank])
    rows = slice(start, start + sizes[rank])
    mine = [part[rows].clone().requires_grad_() for part in leaves[:3]]
    scale = leaves[3].clone().requires_grad_()
    objective = OBJECTIVES[name](local)
    student = Features(*mine, mask[rows], scale)
    for _ in range(2):  # the second step runs with CE-CLIP's adapted thresholds
        losses = objective(student, Features(*(part[rows] for part in teacher), mask[rows], scale.detach()))
    losses.total.backward()
    return (
        losses.total.item(),
        {key: value.item() for key, value in losses.terms.items()},
        # A feature's gradient over the world size is what DDP's mean makes of it.
        [(torch.zeros_like(part) if part.grad is None else part.grad) / world_size for part in mine],
        scale.grad / world_size,
    )


CASES = [(name, local, sizes) for name in OBJECTIVES for local in (True, False) for sizes in ((3, 3), (4, 2))]


def _all_shards(rank, world_size, inputs):
    return [_shard(rank, world_size, name, local, *inputs[name], sizes) for name, local, sizes in CASES]


@pytest.fixture(scope="module")
def shards():
    """Every case on two ranks, in one start of the processes, beside the inputs."""
    inputs = {}
    for name in OBJECTIVES:
        f, teacher = random_features(6, ragged=name != "released"), random_features(6, seed=1)
        inputs[name] = ([*f[:3], f.logit_scale], list(teacher[:3]), f.negative_mask)
    return inputs, dict(zip(CASES, zip(*run_on_ranks(_all_shards, 2, inputs), strict=True), strict=True))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_ranks_equal_one(shards, case):
    name, local, _ = case
    inputs, results = shards
    parts = results[case]
    whole, terms, gradients, scale_gradient = _shard(0, 1, name, local, *inputs[name], (6,))
    assert sum(part[0] for part in parts) / 2 == pytest.approx(whole, rel=1e-10)
    for key, value in terms.items():
        assert sum(part[1][key] for part in parts) / 2 == pytest.approx(value, rel=1e-10)
    for i, gradient in enumerate(gradients):
        torch.testing.assert_close(torch.cat([part[2][i] for part in parts]), gradient, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(sum(part[3] for part in parts), scale_gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("objective", "settings", "message"),
    [
        (degla, {"contrastive": -1.0}, r"objective\.contrastive=-1\.0 must be a number of 0 or more"),
        (degla, {"distill": float("nan")}, r"objective\.distill=nan"),
        (degla, {"igc": float("inf")}, r"objective\.igc=inf"),
        (degla, {"tgc_scale": 0.0}, r"objective\.terms\.tgc\.scale=0\.0 must be a number above 0"),
        (released, {"tgc": -0.1}, r"objective\.tgc=-0\.1"),
        (released, {"tgc_scale": -10.0}, r"objective\.terms\.tgc\.scale=-10\.0"),
        (ce_clip, {"cmr": -0.2}, r"objective\.cmr=-0\.2"),
        (ce_clip, {"num_negatives": -1}, r"objective\.terms\.cmr\.num_negatives=-1 must be 0 or more"),
        (ce_clip, {"upper_bound": -1.0}, r"objective\.terms\.cmr\.upper_bound=-1\.0"),
    ],
)
def test_numbers_out_of_bounds(objective, settings, message):
    with pytest.raises(ConfigError, match=message):
        objective(**settings)


def test_one_threshold_per_slot(make_features):
    with pytest.raises(
        ConfigError, match=r"objective\.terms\.cmr\.num_negatives=5 must equal loader\.num_negatives, which is 3"
    ):
        ce_clip(num_negatives=5)(make_features(4, slots=3))
