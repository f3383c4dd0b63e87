"""Groups of parameters: two as ever, or by tower and layer; and what a resumed run makes of other groups."""

import lightning as L
import pytest
import torch

from degla.artifacts import newest_checkpoint
from degla.errors import ConfigError
from degla.models import load_clip
from degla.training.build import build
from degla.training.depth import count_blocks, position
from degla.training.optim import adamw, cosine, name_state
from degla.training.resume import adapt_optimizer, apply_optimizer_settings
from tests.configs.test_configs import tiny
from tests.conftest import make_photo_folder


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return load_clip("degla-tiny")


def names_of(model, optimizer):
    names = {id(value): name for name, value in model.named_parameters()}
    return [[names[id(value)] for value in group["params"]] for group in optimizer.param_groups]


def test_without_the_settings_there_are_the_two_groups_as_ever(model):
    """Their order numbers the parameters in checkpoints."""
    optimizer = adamw(model, lr=1e-3, weight_decay=0.3)
    named = dict(model.named_parameters())
    is_plain = {
        n: p.ndim < 2 or any(part in n for part in ("bn", "ln", "bias", "logit_scale")) for n, p in named.items()
    }
    assert names_of(model, optimizer) == [[n for n in named if is_plain[n]], [n for n in named if not is_plain[n]]]
    assert [set(group) for group in optimizer.param_groups] == [
        set(torch.optim.AdamW(model.parameters()).param_groups[0])
    ] * 2
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(1e-3, 0.0), (1e-3, 0.3)]


def rates(model, **settings):
    optimizer = adamw(model, **settings)
    groups = zip(names_of(model, optimizer), optimizer.param_groups, strict=True)
    return {name: (group["lr"], group["weight_decay"]) for names, group in groups for name in names}


def test_rates_of_the_towers(model):
    of = rates(model, lr=1e-3, image_lr=2e-3, logit_scale_lr=0.0, weight_decay=0.3)
    assert of.keys() == dict(model.named_parameters()).keys()
    assert of["clip.visual.proj"] == of["clip.visual.conv1.weight"] == (2e-3, 0.3)
    assert of["clip.visual.ln_pre.bias"] == (2e-3, 0.0)
    assert of["clip.text_projection"] == of["clip.transformer.resblocks.0.mlp.c_fc.weight"] == (1e-3, 0.3)
    assert of["clip.logit_scale"] == (0.0, 0.0)
    assert rates(model, lr=1e-3, text_lr=3e-3)["clip.ln_final.weight"] == (3e-3, 0.0)


def test_layer_decay_by_hand(model):
    """The image tower has 4 blocks, the text tower 2; the end of a tower keeps its rate."""
    of = {name: lr for name, (lr, _) in rates(model, lr=1.0, text_lr=2.0, layer_decay=0.5).items()}
    assert [of[f"clip.visual.transformer.resblocks.{n}.attn.in_proj_weight"] for n in range(4)] == [
        2**-4,
        2**-3,
        2**-2,
        2**-1,
    ]
    assert (
        of["clip.visual.conv1.weight"] == of["clip.visual.class_embedding"] == of["clip.visual.ln_pre.weight"] == 2**-5
    )
    assert of["clip.visual.proj"] == of["clip.visual.ln_post.bias"] == 1.0
    assert [of[f"clip.transformer.resblocks.{n}.ln_1.weight"] for n in range(2)] == [0.5, 1.0]
    assert of["clip.token_embedding.weight"] == of["clip.positional_embedding"] == 0.25
    assert of["clip.text_projection"] == of["clip.ln_final.weight"] == 2.0 and of["clip.logit_scale"] == 1.0


def test_groups_have_names_for_their_curves(model):
    groups = adamw(model, layer_decay=0.9).param_groups
    labels = [group["name"] for group in groups]
    assert len(labels) == len(set(labels)) and {"image_0", "image_5", "text_3", "logit_scale"} <= set(labels)
    labels = [group["name"] for group in adamw(model, image_lr=1e-6).param_groups]
    assert sorted(labels) == ["image", "image_no_decay", "logit_scale", "text", "text_no_decay"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clip.visual.trunk.blocks.11.attn.qkv.weight", ("image", 12)),
        ("clip.visual.trunk.patch_embed.proj.weight", ("image", 0)),
        ("clip.visual.trunk.pos_embed", ("image", 0)),
        ("clip.visual.trunk.attn_pool.pos_embed", ("image", None)),
        ("clip.visual.trunk.norm.weight", ("image", None)),
        ("clip.visual.layer3.5.conv1.weight", ("image", 3)),
        ("clip.visual.bn1.weight", ("image", 0)),
        ("clip.visual.attnpool.positional_embedding", ("image", None)),
        ("clip.text.transformer.resblocks.3.ln_1.weight", ("text", 4)),
        ("clip.text.transformer.encoder.layer.7.output.dense.weight", ("text", 8)),
        ("clip.text.transformer.embeddings.word_embeddings.weight", ("text", 0)),
        ("clip.text.proj.weight", ("text", None)),
        ("clip.transformer.resblocks.1.attn.base_layer.out_proj.lora_A.default.weight", ("text", 2)),
        ("clip.logit_bias", ("logit_scale", None)),
    ],
)
def test_positions_in_other_towers(name, expected):
    assert position(name) == expected


def test_blocks_are_counted_per_tower(model):
    assert count_blocks(name for name, _ in model.named_parameters()) == {"image": 4, "text": 2, "logit_scale": 0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer_decay": 0.0}, "optimizer.layer_decay=0.0 must be "),
        ({"layer_decay": 1.5}, "optimizer.layer_decay=1.5"),
        ({"image_lr": -1.0}, "optimizer.image_lr=-1.0 must be a number of 0 or more"),
        ({"text_lr": float("nan")}, "optimizer.text_lr=nan"),
        ({"logit_scale_lr": -1.0}, "optimizer.logit_scale_lr=-1.0"),
    ],
)
def test_settings_out_of_range(model, settings, message):
    with pytest.raises(ConfigError, match=message):
        adamw(model, **settings)


# ---- resuming -----------------------------------------------------------------------------------------------------


def trained(model, steps=3, **settings):
    """Return an optimizer and its schedule after some steps on made-up gradients."""
    optimizer = adamw(model, fused=False, **settings)
    scheduler = cosine(optimizer, total_steps=10, warmup_steps=2)
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        for value in model.parameters():
            value.grad = torch.randn(value.shape, generator=generator)
        optimizer.step()
        scheduler.step()
    return optimizer, scheduler


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({}, {"layer_decay": 0.5}),
        ({"layer_decay": 0.5}, {}),
        ({"layer_decay": 0.5}, {"image_lr": 1e-5, "text_lr": 1e-4}),
    ],
    ids=str,
)
def test_other_groups_keep_the_moments_and_take_the_rates_of_this_run(before, now):
    model = load_clip("degla-scenes")
    optimizer, scheduler = trained(model, lr=1e-3, **before)
    moments = {id(value): optimizer.state[value]["exp_avg"].clone() for value in model.parameters()}
    order = [name for group in names_of(model, optimizer) for name in group]
    saved = name_state(optimizer.state_dict(), order)
    fresh, own_scheduler = trained(model, steps=0, lr=1e-3, **now)
    groups = adamw(model, lr=1e-3, **now).param_groups
    own_order = [name for group in names_of(model, fresh) for name in group]
    adapted = adapt_optimizer(saved, own_order, groups)
    numbers = {name: number for number, name in enumerate(own_order)}
    for group in adapted["param_groups"]:
        group["params"] = [numbers[name] for name in group["params"]]
    adapted["state"] = {numbers[name]: value for name, value in adapted["state"].items()}
    fresh.load_state_dict(adapted)
    own_scheduler.load_state_dict(scheduler.state_dict() | {"lr_lambdas": [None] * len(groups)})
    apply_optimizer_settings(fresh, own_scheduler, groups)
    assert all(torch.equal(fresh.state[value]["exp_avg"], moments[id(value)]) for value in model.parameters())
    factor = scheduler.lr_lambdas[0](3)
    assert [g["lr"] for g in fresh.param_groups] == pytest.approx([g["lr"] * factor for g in groups])
    fresh.step()
    own_scheduler.step()
    factor = scheduler.lr_lambdas[0](4)
    assert [g["lr"] for g in fresh.param_groups] == pytest.approx([g["lr"] * factor for g in groups])
    assert [g.get("name") for g in fresh.param_groups] == [g.get("name") for g in groups]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photo_folder(tmp_path_factory.mktemp("optim") / "photos")


def test_a_run_with_layer_decay_resumes_to_the_bit_and_takes_new_rates(photos, tmp_path):
    def fitted(name, *overrides, ckpt_path=None):
        L.seed_everything(0)
        settings = ["optimizer.layer_decay=0.5", "optimizer.lr=1e-3", "trainer.max_steps=4", "callbacks.export=null"]
        cfg = tiny(photos, str(tmp_path / name), *settings, "callbacks.checkpoint.every_n_steps=2",
                   "callbacks.checkpoint.keep_last=-1", *overrides)  # fmt: skip
        run = build(cfg)
        run.trainer.fit(run.module, run.datamodule, ckpt_path=ckpt_path)
        return run

    whole = fitted("whole")
    halfway = tmp_path / "whole/checkpoints/step-00000002.ckpt"
    resumed = fitted("resumed", ckpt_path=halfway)
    expected = whole.module.state_dict()
    for name, value in resumed.module.state_dict().items():
        assert torch.equal(value, expected[name]), name
    states = [torch.load(newest_checkpoint(tmp_path / run / "checkpoints"), weights_only=True)["optimizer_states"]
              for run in ("whole", "resumed")]  # fmt: skip
    assert states[0][0]["param_groups"] == states[1][0]["param_groups"]
    assert "name" in states[0][0]["param_groups"][0]
    other = fitted(
        "other", "optimizer.layer_decay=null", "optimizer.image_lr=1e-4", "scheduler=constant", ckpt_path=halfway
    )
    assert {group["name"]: group["lr"] for group in other.trainer.optimizers[0].param_groups} == {
        "image": 1e-4, "image_no_decay": 1e-4, "text": 1e-3, "text_no_decay": 1e-3, "logit_scale": 1e-3
    }  # fmt: skip
