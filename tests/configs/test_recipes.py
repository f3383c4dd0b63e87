"""Every recipe of a method trains on made-up data of its layout."""

import json
import math
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from omegaconf import OmegaConf
from open_clip import CLIP

from degla.cli.compose import compose_config
from degla.cli.instantiate import check_node
from degla.errors import ConfigError
from degla.objective_terms import compared_objective
from degla.training.build import Run, build, build_objective
from tests.conftest import make_photo_folder
from tests.helpers.columns import add_columns

RECIPES = {
    "negclip": {"negatives"},
    "ce_clip": {"negatives"},
    "fsc_clip": {"negatives", "tokens"},
    "cs_clip": {"negatives", "units"},
    "read_align": {"negatives", "paraphrases"},
    "clic_text": {"negatives", "second_captions"},
    "tsvlc": {"negatives"},
    "tripletclip": {"negatives", "negative_images"},
    "con_clip": {"negatives", "negative_images"},
    "siglip_degla": {"negatives", "logit_bias", "teacher"},
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder whose rows have every column; the first image has none of them."""
    folder = make_photo_folder(tmp_path_factory.mktemp("recipes") / "photos", images=14)
    add_columns(folder)
    return folder


@pytest.fixture(scope="module")
def coco(photos) -> Path:
    """The same images in the layouts of NegCLIP and CE-CLIP."""
    folder = photos.parent / "coco"
    images = sorted((photos / "images").glob("*.jpg"))
    (folder / "coco/train2014").mkdir(parents=True)
    rows = ["\ttitle\tfilepath\tneg_caption\tneg_image"]
    items = []
    for number, image in enumerate(images):
        name = f"COCO_train2014_{number:012d}.jpg"
        (folder / "coco/train2014" / name).write_bytes(image.read_bytes())
        negatives = [f"{number} a cat chases", f"a dog sees {number}"]
        rows.append(f"{number}\ta dog chases {number}\tcoco/train2014/{name}\t{negatives}\t[{(number + 1) % 14}]")
        texts = {f"{kind}_aug_caption": f"{kind} {number}" for kind in ("relation", "adj", "noun", "verb")}
        item = {"image_id": number, "id": number, "caption": f"a dog chases {number}", **texts}
        items.append(item | {"valid_caption": [1, 1, number % 2, 1, 1]})
    (folder / "train_neg_clip.tsv").write_text("\n".join(rows) + "\n")
    array = np.empty(len(items), dtype=object)
    array[:] = items
    with (folder / "coco_train.npy").open("wb") as file:
        np.save(file, array, allow_pickle=True)
    return folder


@pytest.fixture(scope="module")
def siglip(tmp_path_factory) -> str:
    """A small CLIP with SigLIP's bias."""
    folder = tmp_path_factory.mktemp("siglip")
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text, "init_logit_bias": -10.0}
    content = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    assert isinstance(model, CLIP) and model.logit_bias is not None
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return f"local-dir:{folder}"


def made(recipe: str, photos: Path, coco: Path, siglip: str, run_dir: Path, **settings: object) -> Run:
    """A recipe with a small model and batch, on data of its layout."""
    data: dict[str, object] = {"data.path": str(photos)}
    if recipe in ("negclip", "fsc_clip"):
        data = {"data.annotations": str(coco / "train_neg_clip.tsv"), "data.image_root": str(coco)}
    elif recipe == "ce_clip":
        data = {"data.annotations": str(coco / "coco_train.npy"), "data.image_root": str(coco / "coco/train2014")}
    model: object = {"option": "tiny", "pretrained": None, "quick_gelu": None}
    if recipe == "siglip_degla":
        model = {"option": "siglip_b_16", "name": siglip, "pretrained": None}
    small = {
        "model": model,
        "precision": 32,
        "optimizer.lr": 1e-3,
        "optimizer.fused": False,
        "loader.global_batch_size": 4,
        "loader.epochs": 2,
        "loader.num_workers": 0,
        "scheduler.warmup_steps": 1,
        "trainer.accelerator": "cpu",
        "trainer.max_steps": 3,
        "trainer.log_every_n_steps": 1,
        "callbacks.progress_bar": None,
        "callbacks.export": None,
        "callbacks.checkpoint.every_n_steps": 2,
        "run_dir": str(run_dir),
    }
    return build(compose_config("train", {"experiment": recipe, **small, **data, **settings}))


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.module.state_dict().items()}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_on_data_of_its_layout(recipe, photos, coco, siglip, tmp_path):
    run = made(recipe, photos, coco, siglip, tmp_path / "whole")
    before = weights(run)
    run.trainer.fit(run.module, run.datamodule)
    metrics = run.trainer.callback_metrics
    terms = {name.removeprefix("train/loss_") for name in metrics if name.startswith("train/loss_")}
    assert terms == set(run.module.objective.weights)
    values = {name: float(metrics[f"train/loss_{name}"]) for name in terms}
    assert all(math.isfinite(value) and (value > 0 or name == "cmr") for name, value in values.items()), values
    whole = weights(run)
    assert any(not torch.equal(before[name], whole[name]) for name in whole)
    if recipe == "siglip_degla":
        assert not torch.equal(before["student.clip.logit_bias"], whole["student.clip.logit_bias"])

    if recipe not in ("ce_clip", "siglip_degla"):  # tests/integration/test_methods.py resumes the others
        return
    again = made(recipe, photos, coco, siglip, tmp_path / "again")
    checkpoint = next((tmp_path / "whole/checkpoints").glob("*2*.ckpt"))
    again.trainer.fit(again.module, again.datamodule, ckpt_path=str(checkpoint), weights_only=False)
    resumed = weights(again)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_take_their_keys(recipe):
    cfg = compose_config("train", {"experiment": recipe})
    for group in ("model", "data", "loader", "optimizer", "scheduler", "trainer"):
        check_node(cfg[group], group)
    assert build_objective(cfg.objective).needs == RECIPES[recipe] and cfg.name == recipe


def test_hyper_parameters_of_the_papers():
    """Facts of the released scripts; docs/methods.md names each."""
    cfg = {recipe: compose_config("train", {"experiment": recipe}) for recipe in RECIPES}
    assert (cfg["negclip"].loader.negatives, cfg["negclip"].loader.num_negatives) == ("random", 1)
    assert cfg["negclip"].loader.hard_images and cfg["negclip"].optimizer.lr == 1e-6
    assert (cfg["fsc_clip"].adapter.rank, cfg["fsc_clip"].adapter.alpha, cfg["fsc_clip"].optimizer.lr) == (4, 1, 5e-5)
    assert (cfg["cs_clip"].loader.global_batch_size, cfg["cs_clip"].optimizer.lr) == (128, 5e-6)
    assert (cfg["read_align"].loader.num_negatives, cfg["read_align"].optimizer.lr) == (3, 1e-5)
    assert (cfg["con_clip"].loader.global_batch_size, cfg["con_clip"].model.unlocked_image_groups) == (200, 0)
    assert cfg["clic_text"].model.unlocked_image_groups == 0 and cfg["tsvlc"].adapter.rank == 4
    assert cfg["ce_clip"].objective.terms.cmr.reset_each_pass


def test_a_sigmoid_needs_a_bias(photos, tmp_path):
    with pytest.raises(ConfigError, match=r"objective\.sigmoid needs a model with a logit bias"):
        made("siglip_degla", photos, photos, "", tmp_path, model={"option": "tiny"})


def test_terms_mix_freely():
    """READ's alignment on DeGLA, and FSC's focal form in place of IGC."""
    cfg = compose_config("train", {"objective.paraphrase": 0.5, "objective.focal": 0.5, "objective.igc": 0})
    objective = build_objective(cfg.objective)
    assert objective.weights == {"contrastive": 1.0, "tgc": 0.1, "distill": 1.28, "paraphrase": 0.5, "focal": 0.5}
    assert objective.needs == {"negatives", "teacher", "paraphrases"}


def test_runs_of_earlier_releases_keep_their_objective():
    """Keys that came later, at the values of those releases, are no change of a run."""
    now = OmegaConf.to_container(compose_config("train", {"objective": "ce_clip"}).objective, resolve=False)
    before = json.loads(json.dumps(now))
    del before["terms"]["contrastive"]["duplicates"], before["terms"]["cmr"]["reset_each_pass"]
    assert compared_objective(now) == compared_objective(before)
    now["terms"]["cmr"]["reset_each_pass"] = True
    assert compared_objective(now) != compared_objective(before)
