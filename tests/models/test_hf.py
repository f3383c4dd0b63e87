"""Folders and repositories of ``transformers.CLIPModel`` are read, and other files are refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from degla.errors import CheckpointError, ConfigError
from degla.models import load_clip, save_open_clip
from degla.models.hf import save_hf
from tests.helpers.forked import degla_forked

transformers = pytest.importorskip("transformers")

TEXTS = ["a dog on a mat", "Two cats, and a dog?!", "x " * 90]


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    model = load_clip("degla-tiny", quick_gelu=True).eval()
    with torch.no_grad():
        model.clip.logit_scale.fill_(3.3)
    return model


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory):
    return save_hf(tiny, tmp_path_factory.mktemp("hf") / "model")


def pixels():
    return torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def same(model, other) -> None:
    with torch.no_grad():
        for value, expected in zip(
            model(pixels(), model.tokenizer(TEXTS)), other(pixels(), other.tokenizer(TEXTS)), strict=True
        ):
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)


def test_our_export_read_back(tiny, exported, tmp_path):
    for model in (load_clip(pretrained=str(exported)), load_clip(f"local-dir:{exported}")):
        same(model.eval(), tiny)
        assert model.source == ("degla-tiny", str(exported)) and model.config == tiny.config
        assert {**model.preprocess, "mean": list(model.preprocess["mean"]), "std": list(model.preprocess["std"])} == {
            **tiny.preprocess, "mean": list(tiny.preprocess["mean"]), "std": list(tiny.preprocess["std"])
        }  # fmt: skip
    same(load_clip(pretrained=str(save_open_clip(model, tmp_path / "again"))).eval(), tiny)
    with pytest.raises(ConfigError, match=r"set model\.quick_gelu=true"):
        load_clip(pretrained=str(exported), quick_gelu=False)


def build_with_transformers(folder: Path, **vision):
    """A model that transformers has built and written, unlike CLIP in all that its config can say."""
    torch.manual_seed(1)
    tower = {"hidden_act": "gelu", "layer_norm_eps": 1e-3, "projection_dim": 24, "initializer_factor": 5.0}
    text = {
        "hidden_size": 32,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "eos_token_id": 49407,
    }
    image = {"hidden_size": 48, "intermediate_size": 100, "num_hidden_layers": 3, "num_attention_heads": 3,
             "image_size": 64, "patch_size": 16} | vision  # fmt: skip
    config = transformers.CLIPConfig(text_config=text | tower, vision_config=image | tower, projection_dim=24)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(folder)
    return model


def features_of_transformers(model, ours):
    mean, std = (torch.tensor(ours.preprocess[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    out = model(input_ids=ours.tokenizer(TEXTS), pixel_values=(pixels() / 255 - mean) / std)
    return F.normalize(out.image_embeds, dim=-1), F.normalize(out.text_embeds, dim=-1), model.logit_scale.exp()


def test_a_model_of_transformers(tmp_path):
    model = build_with_transformers(tmp_path / "model")
    ours = load_clip(pretrained=str(tmp_path / "model")).eval()
    assert ours.source.architecture == "architecture of its own" and ours.config["quick_gelu"] is False
    with torch.no_grad():
        mine = ours(pixels(), ours.tokenizer(TEXTS))[:3]
        for value, expected in zip(mine, features_of_transformers(model, ours), strict=True):
            torch.testing.assert_close(value, expected, atol=1e-5, rtol=0)


def test_pickled_sharded_and_older_files(tmp_path):
    """``pytorch_model.bin``, an index of several files, ``text_config_dict``, ``position_ids``, other preprocessing."""
    model = build_with_transformers(tmp_path / "model")
    expected = load_clip(pretrained=str(tmp_path / "model")).eval()
    old = tmp_path / "old"
    shutil.copytree(tmp_path / "model", old)
    (old / "model.safetensors").unlink()
    torch.save(
        model.state_dict() | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, old / "pytorch_model.bin"
    )
    config = json.loads((old / "config.json").read_text())
    config["text_config_dict"], config["text_config"] = config["text_config"], {"hidden_size": 7}
    (old / "config.json").write_text(json.dumps(config))
    processor = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 2, "do_center_crop": False,
                 "size": {"height": 64, "width": 64}}  # fmt: skip
    (old / "preprocessor_config.json").write_text(json.dumps(processor))
    loaded = load_clip(pretrained=str(old))
    torch.testing.assert_close(loaded.clip.state_dict(), expected.clip.state_dict(), atol=0, rtol=0)
    preprocess = {key: loaded.preprocess[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    assert preprocess == {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    model.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 2
    sharded = load_clip(pretrained=str(tmp_path / "sharded"))
    torch.testing.assert_close(sharded.clip.state_dict(), expected.clip.state_dict(), atol=0, rtol=0)
    next((tmp_path / "sharded").glob("model-*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match=r"holds no model-0.*download the weights too"):
        load_clip(pretrained=str(tmp_path / "sharded"))


def test_a_repository_of_the_hub(exported, tiny, tmp_path, monkeypatch):
    """From the hub's local cache, offline: refs, and one snapshot folder per commit."""
    folder = tmp_path / "models--me--my-clip"
    shutil.copytree(exported, folder / "snapshots" / "abc123")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc123")
    model = load_clip("hf-hub:me/my-clip", cache_dir=str(tmp_path))
    same(model.eval(), tiny)
    assert model.source == ("degla-tiny", "hf-hub:me/my-clip")
    with pytest.raises(ConfigError, match="run once with internet access"):
        load_clip("hf-hub:me/no-clip", cache_dir=str(tmp_path))


def test_weights_of_a_run_on_the_folder_it_began_with(exported, tiny, tmp_path):
    """degla-export builds a model so: architecture and preprocessing from the folder, weights from the checkpoint."""
    state = {f"student.clip.{name}": value + 1 for name, value in tiny.clip.state_dict().items()}
    torch.save({"state_dict": state, "quick_gelu": True}, tmp_path / "step-1.ckpt")
    model = load_clip(f"local-dir:{exported}", str(tmp_path / "step-1.ckpt"))
    assert torch.equal(model.clip.visual.proj, tiny.clip.visual.proj + 1) and model.source.architecture == "degla-tiny"


def test_degla_train_takes_the_folder(exported, tmp_path):
    from tests.conftest import make_photo_folder

    photos = make_photo_folder(tmp_path / "photos", images=4)
    result = degla_forked(f"model.pretrained={exported}", f"data.path={photos}", "data=folder", "trainer.max_steps=1",
                          "trainer.accelerator=cpu", "precision=32", "loader.num_workers=0", "benchmark=none",
                          "loader.global_batch_size=2", "loader.val_fraction=0", "run_dir=run",
                          cwd=tmp_path)  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert load_clip(pretrained=str(tmp_path / "run" / "model")).source.architecture == "degla-tiny"


def edited(exported, tmp_path, file="config.json", **changes):
    folder = tmp_path / "edited"
    shutil.copytree(exported, folder)
    content = json.loads((folder / file).read_text())
    for key, value in changes.items():
        target, keys = content, key.split("__")
        for part in keys[:-1]:
            target = target[part]
        target[keys[-1]] = value
    (folder / file).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "siglip"}, "is a siglip model of transformers"),
        ({"text_config": [1]}, "has no text_config"),
        ({"text_config__hidden_size": "wide"}, "text_config.hidden_size='wide'"),
        ({"vision_config__num_channels": 4}, "4 channels"),
        ({"vision_config__hidden_act": "gelu"}, "activations"),
        ({"vision_config__hidden_act": "relu", "text_config__hidden_act": "relu"}, "activations relu"),
        ({"text_config__vocab_size": 30522}, "vocabulary of 30522 tokens that is not CLIP's"),
        ({"file": "tokenizer.json", "model__vocab__dog</w>": 5}, "vocabulary of 49408 tokens that is not CLIP's"),
    ],
    ids=str,
)
def test_other_models_are_refused(exported, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_clip(pretrained=str(edited(exported, tmp_path, **changes)))


def test_weights_that_do_not_fit_are_refused(exported, tmp_path):
    with pytest.raises(CheckpointError, match="does not fit"):
        load_clip(pretrained=str(edited(exported, tmp_path, text_config__hidden_size=64)))
    (tmp_path / "edited" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read as JSON"):
        load_clip(pretrained=str(tmp_path / "edited"))


def test_a_text_tower_of_the_hub_offline(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"needs the config of roberta-base .*run once with internet access"):
        load_clip("roberta-ViT-B-32")
