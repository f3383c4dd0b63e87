"""A folder decides what is built, and a model records its architecture and weights."""

import json

import pytest

from degla.errors import CheckpointError, ConfigError
from degla.models import load_clip, save_open_clip
from tests.helpers.benchmarks import sugarcrepe
from tests.helpers.forked import degla_forked


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The built-in world's model, as a run's export writes it: GELU, 48 pixels, a vocabulary of its own."""
    return save_open_clip(load_clip("degla-scenes", "plain_clip"), tmp_path_factory.mktemp("export") / "model")


@pytest.mark.parametrize("name", ["ViT-B-32", "degla-scenes"])
def test_a_folder_decides_architecture_and_activation(folder, name):
    model = load_clip(name, str(folder))
    assert model.image_size == (48, 48) and model.config["quick_gelu"] is False
    assert model.source == ("degla-scenes", str(folder))
    with pytest.raises(ConfigError, match=r"model\.quick_gelu=true contradicts .*: set model\.quick_gelu=false"):
        load_clip(name, str(folder), quick_gelu=True)


def test_models_record_their_architecture_and_weights(folder, tmp_path):
    assert load_clip("degla-scenes", "plain_clip").source.description == "degla-scenes plain_clip"
    assert load_clip("degla-tiny").source.description == "degla-tiny random weights"
    weights = str(folder / "open_clip_model.safetensors")
    assert load_clip("degla-scenes", weights).source == ("degla-scenes", weights)
    assert load_clip(f"local-dir:{folder}").source == ("degla-scenes", str(folder))
    config = json.loads((folder / "open_clip_config.json").read_text())
    other = save_open_clip(load_clip("degla-tiny"), tmp_path / "other")
    config = json.loads((other / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["norm_kwargs"] = {"eps": 1e-3}
    (other / "open_clip_config.json").write_text(json.dumps(config))
    assert load_clip(pretrained=str(other)).source == ("architecture of its own", str(other))


def test_the_readmes_line_measures_the_demos_model(folder, tmp_path):
    """``model=`` stays at its default, ViT-B/32 with QuickGELU weights."""
    sugarcrepe(tmp_path / "data", ["swap_obj"], count=10)
    arguments = ["benchmark=sugarcrepe", "benchmark.sugarcrepe.subsets=[swap_obj]", "num_workers=0", "run_dir=out"]
    result = degla_forked(f"model.pretrained={folder}", *arguments, cwd=tmp_path, program="evaluate")
    assert result.returncode == 0, result.stderr[-3000:]
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["label"] == f"degla-scenes {folder}" and "random" not in record["label"]
    assert record["model"]["name"] == "degla-scenes" and record["model"]["pretrained"] == str(folder)


def changed(folder, tmp_path, **model_cfg):
    copy = save_open_clip(load_clip(pretrained=str(folder)), tmp_path / "changed")
    file = copy / "open_clip_config.json"
    content = json.loads(file.read_text())
    content["model_cfg"] |= model_cfg
    file.write_text(json.dumps(content))
    return copy


@pytest.mark.parametrize(
    ("model_cfg", "message"),
    [
        ({"text_cfg": None}, "has no model_cfg with text_cfg"),
        ({"vision_cfg": {"image_size": 48, "layers": 2, "patch_size": 8, "made_up": 1}}, "cannot be built"),
        ({"unknown": 1}, "cannot be built"),
        ({"quick_gelu": "yes"}, "quick_gelu"),
    ],
)
def test_a_folder_with_a_bad_config(folder, tmp_path, model_cfg, message):
    with pytest.raises(ConfigError, match=message):
        load_clip(pretrained=str(changed(folder, tmp_path, **model_cfg)))


def test_merges_outside_the_folder_are_not_read(folder, tmp_path):
    (tmp_path / "secret.gz").write_bytes((folder / "degla-scenes.bpe.gz").read_bytes())
    text = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    text["tokenizer_kwargs"]["bpe_path"] = "../secret.gz"
    with pytest.raises(ConfigError, match=r"\.\./secret\.gz, which is not in"):
        load_clip(pretrained=str(changed(folder, tmp_path, text_cfg=text)))


@pytest.mark.parametrize(
    "preprocess", [{"mean": [0.5]}, {"std": "bright"}, {"interpolation": "sinc"}, {"resize_mode": "melt"}]
)
def test_a_folder_with_bad_preprocessing(folder, tmp_path, preprocess):
    copy = changed(folder, tmp_path)
    file = copy / "open_clip_config.json"
    content = json.loads(file.read_text())
    content["preprocess_cfg"] |= preprocess
    file.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"records {next(iter(preprocess))}="):
        load_clip(pretrained=str(copy))
