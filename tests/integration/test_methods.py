"""Every recipe trains on samples with all columns, and resumes to the same bits."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from degla.models import load_clip
from tests.conftest import degla
from tests.helpers.forked import degla_forked

RECIPES = (
    *("negclip", "ce_clip", "fsc_clip", "cs_clip", "read_align", "clic_text", "tsvlc", "tripletclip", "con_clip"),
    "siglip_degla",
)
SMALL = (
    *("data=scenes", "data.num_scenes=24", "data.further_columns=true", "model=tiny", "model.quick_gelu=null"),
    *("loader.global_batch_size=8", "loader.num_workers=0", "loader.epochs=1", "loader.val_fraction=0"),
    *("trainer.accelerator=cpu", "precision=32", "scheduler.warmup_steps=2", "trainer.max_steps=3", "name=train"),
    *("callbacks.progress_bar=null", "callbacks.checkpoint.every_n_steps=1", "callbacks.checkpoint.keep_last=-1"),
)


@pytest.fixture(scope="module")
def sigmoid_model(tmp_path_factory) -> Path:
    """A folder with a tiny model that has a logit bias, as SigLIP's have."""
    folder = tmp_path_factory.mktemp("sigmoid")
    torch.manual_seed(0)
    model = load_clip("degla-tiny")
    config = {"model_cfg": {**model.config, "init_logit_bias": -10.0}, "preprocess_cfg": model.preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    weights = {name: value.contiguous() for name, value in model.clip.state_dict().items()}
    save_file(weights | {"logit_bias": torch.tensor(-10.0)}, folder / "open_clip_model.safetensors")
    return folder


def _weights(run_dir: Path) -> dict:
    content = torch.load(run_dir / "checkpoints" / "step-00000003.ckpt", weights_only=True)
    return content["state_dict"]


def test_a_sigmoid_loss_under_fsdp2(tmp_path, sigmoid_model):
    """Its bias is a parameter that FSDP2 frees after the forward pass."""
    more = [f"model.pretrained={sigmoid_model}", "strategy=fsdp2", "trainer.devices=2", f"run_dir={tmp_path / 'run'}"]
    degla("experiment=siglip_degla", *SMALL, *more, cwd=tmp_path)
    assert (tmp_path / "run" / "checkpoints" / "step-00000003.ckpt").is_file()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_and_resumes_to_the_same_bits(recipe, tmp_path, sigmoid_model):
    arguments = [f"experiment={recipe}", *SMALL]
    if recipe == "siglip_degla":
        arguments.append(f"model.pretrained={sigmoid_model}")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    first = degla_forked(*arguments, f"run_dir={whole}", cwd=tmp_path)
    assert first.returncode == 0, first.stderr[-3000:]
    checkpoint = whole / "checkpoints" / "step-00000002.ckpt"
    second = degla_forked(*arguments, f"run_dir={resumed}", f"ckpt_path={checkpoint}", cwd=tmp_path)
    assert second.returncode == 0, second.stderr[-3000:]
    one, other = _weights(whole), _weights(resumed)
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    before = torch.load(whole / "checkpoints" / "step-00000001.ckpt", weights_only=True)["state_dict"]
    assert any(not torch.equal(value, before[name]) for name, value in one.items() if name.startswith("student."))
