"""Training with a LoRA: what moves, what a resumed run, chunks and ranks change (nothing), and what a run leaves."""

import os
import subprocess
from pathlib import Path
from typing import Any

import lightning as L
import open_clip
import pytest
import torch
from safetensors.torch import load_file

from degla.artifacts import newest_checkpoint
from degla.errors import ConfigError, NonFiniteError
from degla.models import interpolate_weights, load_clip
from degla.models.adapters import apply_adapter
from degla.models.lora_state import lora_in_peft_layout
from degla.training.build import Run, build
from degla.training.console import _describe_model
from degla.training.optim import trained_bytes
from degla.training.resume import check_resume
from tests.configs.test_configs import tiny
from tests.conftest import degla, make_photo_folder
from tests.helpers.forked import forked_python

LORA = ("adapter=lora", "optimizer.lr=1e-2", "loader.num_workers=0", "trainer.max_steps=4", "teacher.decay=0.9")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photo_folder(tmp_path_factory.mktemp("lora") / "photos")


def prepared(photos, folder, *overrides) -> Run:
    L.seed_everything(0)
    return build(tiny(photos, str(folder), *LORA, "callbacks.checkpoint.every_n_steps=2",
                      "callbacks.checkpoint.keep_last=-1", *overrides))  # fmt: skip


def fitted(photos, folder, *overrides, ckpt_path=None) -> Run:
    run = prepared(photos, folder, *overrides)
    run.trainer.fit(run.module, run.datamodule, ckpt_path=ckpt_path)
    return run


@pytest.mark.parametrize(
    ("overrides", "others"),
    [(["teacher=ema"], set()), (["teacher=frozen"], set()), (["adapter.train_logit_scale=true"], {"logit_scale"})],
    ids=["ema", "frozen", "logit scale"],
)
def test_only_the_adapter_moves(photos, tmp_path, overrides, others):
    run = prepared(photos, tmp_path, "adapter=lora_fsc", "callbacks.export=null", *overrides)
    before = {name: value.clone() for name, value in run.module.state_dict().items()}
    run.trainer.fit(run.module, run.datamodule)
    after = run.module.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    adapter = {name for name in after if ".lora_" in name}
    moves_with_it = adapter if run.module.teacher.decay else {name for name in adapter if name.startswith("student.")}
    both = ("student.clip.", "teacher.model.clip.")
    assert moved == moves_with_it | {f"{part}{name}" for name in others for part in both}


def test_a_resumed_run_is_the_run_to_the_bit(photos, tmp_path):
    """With dropout, and an EMA teacher that shares the base."""
    settings = ["adapter.dropout=0.3", "callbacks.export=null"]
    whole = fitted(photos, tmp_path / "whole", *settings)
    halfway = tmp_path / "whole/checkpoints/step-00000002.ckpt"
    resumed = fitted(photos, tmp_path / "resumed", *settings, ckpt_path=halfway)
    assert resumed.trainer.global_step == 4
    expected = whole.module.state_dict()
    for name, value in resumed.module.state_dict().items():
        assert torch.equal(value, expected[name]), name
    state = torch.load(newest_checkpoint(tmp_path / "whole/checkpoints"), weights_only=True)["optimizer_states"]
    again = torch.load(newest_checkpoint(tmp_path / "resumed/checkpoints"), weights_only=True)["optimizer_states"]
    assert len(state[0]["state"]) == 36 and all(".lora_" in name for name in state[0]["state"])
    for name, moments in state[0]["state"].items():
        assert all(torch.equal(value, again[0]["state"][name][key]) for key, value in moments.items())


def test_dropout_differs_between_batches(photos, tmp_path):
    run = prepared(photos, tmp_path, "adapter.dropout=0.5")
    run.module.train()
    layer = run.module.student.clip.transformer.resblocks[0].mlp.c_fc
    masks = []
    for batch in (0, 1, 0):
        run.module.on_train_batch_start(None, batch)
        masks.append(layer.lora_dropout["default"](torch.ones(1000)))
    assert torch.equal(masks[0], masks[2]) and not torch.equal(masks[0], masks[1])


def test_a_resumed_run_keeps_its_adapter(photos, tmp_path):
    fitted(photos, tmp_path, "trainer.max_steps=2", "callbacks.export=null")
    last = newest_checkpoint(tmp_path / "checkpoints")
    for overrides, message in (
        (["adapter.rank=8"], r"adapter.rank 4 -> 8: a resumed run cannot change this.*resume.allow=\[adapter\]"),
        (["adapter=none"], "adapter._target_ degla.models.adapters.Lora -> null"),
    ):
        cfg = tiny(photos, str(tmp_path), *LORA, *overrides)
        run = build(cfg)
        with pytest.raises(ConfigError, match=message):
            check_resume(cfg, last, module=run.module, data=run.module.data_identity)


def test_chunks_have_the_gradient_of_the_whole_batch(photos, tmp_path):
    gradients = []
    for size in ("null", "1"):
        run = prepared(photos, tmp_path, f"loader.chunk_size={size}")
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, value in run.module.student.named_parameters():
                if "lora_B" in name:
                    value.normal_(0, 0.1, generator=generator)
        run.datamodule.trainer = run.trainer
        run.datamodule.setup("fit")
        run.module.compute_losses(next(iter(run.datamodule.train_dataloader()))).total.backward()
        gradients.append({n: p.grad for n, p in run.module.student.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_a_gradient_that_is_not_finite_is_found(photos, tmp_path):
    """No bias and no projection has a gradient here."""
    run = prepared(photos, tmp_path)
    layer = run.module.student.clip.transformer.resblocks[0].mlp.c_fc
    layer.lora_A["default"].weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(NonFiniteError, match="the gradient is not finite at step 0"):
        run.trainer.fit(run.module, run.datamodule)


def test_a_run_leaves_the_merged_model_and_the_adapter(photos, tmp_path):
    torch.manual_seed(0)
    base = load_clip("degla-tiny")
    weights = tmp_path / "base.pt"
    torch.save(base.clip.state_dict(), weights)
    run = fitted(photos, tmp_path, f"model.pretrained={weights}", "model.quick_gelu=false", "adapter=lora_fsc")
    student = run.module.student.eval()
    merged = load_clip(pretrained=str(tmp_path / "model"))
    of_checkpoint = load_clip("degla-tiny", str(newest_checkpoint(tmp_path / "checkpoints")))
    teacher = load_clip("degla-tiny", str(newest_checkpoint(tmp_path / "checkpoints")), part="teacher.model")
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    texts = student.tokenizer(["a dog", "two cats on a mat"])
    with torch.no_grad():
        expected = student(images, texts)[:3]
        for model in (merged, of_checkpoint):
            for ours, theirs in zip(model.eval()(images, texts)[:3], expected, strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
        of_teacher = run.module.teacher.model(images, texts)[:3]
        for ours, theirs in zip(teacher.eval()(images, texts)[:3], of_teacher, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    assert (of_teacher[0] - expected[0]).abs().max() > 1e-4
    plain = open_clip.create_model("degla-tiny")
    plain.load_state_dict({n: v.reshape(plain.state_dict()[n].shape) for n, v in base.clip.state_dict().items()})
    apply_adapter(plain, tmp_path / "model/adapter")
    for name, value in load_file(tmp_path / "model/open_clip_model.safetensors").items():
        torch.testing.assert_close(plain.state_dict()[name], value, atol=1e-7, rtol=0)
    out, model = tmp_path / "ema", run.module.teacher.model
    degla(f"ckpt={tmp_path}", "weights=ema", f"out={out}", cwd=tmp_path, program="export")
    for folder, parts in ((out, model), (tmp_path / "model", student)):
        adapter = load_file(folder / "adapter/adapter_model.safetensors")
        expected_adapter = lora_in_peft_layout(parts.clip.state_dict())
        assert adapter.keys() == expected_adapter.keys()
        assert all(torch.equal(value, expected_adapter[name]) for name, value in adapter.items())
        for name, value in load_file(folder / "open_clip_model.safetensors").items():
            assert torch.equal(value, parts.open_clip_state()[name].reshape(value.shape)), name
    degla(f"ckpt={tmp_path}", "wise_ft=0.5", f"out={tmp_path / 'half'}", cwd=tmp_path, program="export")
    assert not (tmp_path / "half/adapter").exists()
    mixed = load_file(tmp_path / "half/open_clip_model.safetensors")
    half = interpolate_weights(base.clip.state_dict(), merged.clip.state_dict(), 0.5)
    assert all(torch.equal(value, half[name].reshape(value.shape)) for name, value in mixed.items())


def test_what_training_takes_is_said_before_the_first_step(photos, tmp_path):
    cfg = tiny(photos, str(tmp_path), *LORA)
    student = build(cfg).module.student
    trained = sum(value.numel() for value in student.parameters() if value.requires_grad)
    assert trained_bytes(student.parameters()) == (4 * trained, 8 * trained)
    assert trained_bytes(student.parameters(), everything=True).gradients > 50 * 4 * trained
    text = _describe_model(cfg, student)
    assert f", 0.043 M trained (LoRA of rank 4), gradients and optimizer {12 * trained / 1e6:.3g} MB instead" in text


CLIPPED = ("trainer.gradient_clip_val=1.0", "trainer.max_steps=3")
RANK = """
from pathlib import Path
from tests.training.test_lora import CLIPPED, fitted
fitted(Path({photos!r}), Path({folder!r}), *CLIPPED, *{overrides!r})
"""


@pytest.mark.slow
def test_two_ranks_under_ddp_and_fsdp2_train_the_same_adapter(photos, tmp_path):
    layouts = {
        "ddp": ["strategy=ddp", "trainer.devices=2"],
        "fsdp2": ["strategy=fsdp2", "trainer.devices=2"],
    }
    fitted(photos, tmp_path / "one", *CLIPPED)
    root = Path(__file__).parents[2]
    for name, overrides in layouts.items():
        script = tmp_path / f"{name}.py"
        script.write_text(RANK.format(photos=str(photos), folder=str(tmp_path / name), overrides=overrides))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
        command = [forked_python(), str(script)]
        result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=500)
        assert result.returncode == 0, result.stderr[-4000:]
    for name in layouts:
        ours, expected = (checkpoint_of(tmp_path / run) for run in (name, "one"))
        torch.testing.assert_close(ours["state_dict"], expected["state_dict"], atol=2e-5, rtol=1e-3)
        optimizer, other = (content["optimizer_states"][0] for content in (ours, expected))
        torch.testing.assert_close(optimizer["state"], other["state"], atol=2e-5, rtol=1e-3)
        groups = ([set(group["params"]) for group in state["param_groups"]] for state in (optimizer, other))
        assert next(groups) == next(groups)
        model, alone = (load_file(tmp_path / run / "model/open_clip_model.safetensors") for run in (name, "one"))
        torch.testing.assert_close(model, alone, atol=2e-5, rtol=1e-3)
    adapter = load_file(tmp_path / "fsdp2/model/adapter/adapter_model.safetensors")
    assert len(adapter) == 48 and all(name.startswith("base_model.model.") for name in adapter)


def checkpoint_of(folder: Path) -> dict[str, Any]:
    return torch.load(newest_checkpoint(folder / "checkpoints"), weights_only=True)
