"""Every file in configs/ composes, builds and runs."""

import inspect
import math
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import degla.cli.main
from degla.cli.instantiate import check_node, instantiate, instantiate_each
from degla.data.sources import SampleTable
from degla.errors import NonFiniteError
from degla.objective_terms import with_short_forms, write_out_terms
from degla.training.build import build
from degla.training.run_folder import finished_value, mark_as_finished
from tests.conftest import make_photo_folder
from tests.helpers.columns import add_columns

CONFIGS = Path(degla.cli.main.config_dir())
FILES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))

# SigLIP's needs a model with a logit bias; tests/configs/test_recipes.py has one.
OBJECTIVES = [Path(f).stem for f in FILES if f.startswith("objective/") and "siglip" not in f]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = make_photo_folder(tmp_path_factory.mktemp("configs") / "photos")
    add_columns(folder)
    return folder


def composed(*overrides, run_dir="runs/x"):
    """Compose as the program does, short forms of terms included."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", overrides=[f"run_dir={run_dir}", *with_short_forms(overrides)])
    write_out_terms(cfg)
    return cfg


def tiny(photos, run_dir, *overrides):
    settings = [
        "model=tiny",
        f"data.path={photos}",
        "loader.num_workers=0",
        "loader.global_batch_size=4",
        "loader.val_fraction=0.3",
        "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=1",
        "callbacks.progress_bar=null",
        "scheduler.warmup_steps=1",
    ]
    return composed(*settings, "trainer.max_steps=2", *overrides, run_dir=run_dir)


def test_no_file_is_forgotten():
    """A new group or option needs a line here, and so a test below."""
    names = ("train", "evaluate", "negatives", "export", "study", "downloads", "search", "try")
    roots = {f"{name}.yaml" for name in names}
    groups = {"benchmark", "callbacks", "data", "experiment", "loader", "logger", "model", "negatives", "objective"}
    groups |= {"adapter", "optimizer", "scheduler", "strategy", "sweep", "teacher", "trainer"}
    assert {Path(file).parts[0] for file in FILES if "local" not in Path(file).parts} == roots | groups


@pytest.mark.parametrize("option", [Path(f).stem for f in FILES if f.startswith("benchmark/") and "none" not in f])
def test_benchmarks_build_and_say_what_is_missing(option, tmp_path):
    """That they measure what they should is tested in tests/evaluation."""
    lines = tmp_path / "own.jsonl"
    lines.write_text('{"image": "1.jpg", "captions": ["a", "b"], "label": 0}')
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        own = [f"benchmark.own.path={lines}"] if option == "own" else []
        cfg = compose("evaluate", [f"benchmark={option}", f"data_dir={tmp_path}", "run_dir=runs/x", *own])
    tasks = instantiate_each(cfg.benchmark, "benchmark")
    rows = {name: task.survey() for name, task in tasks.items()}
    assert set(rows) == set(cfg.benchmark) and all(rows.values())
    missing = {name for name, found in rows.items() if any(row.missing for row in found)}
    assert missing == set(rows) - {"scenes"}
    size = {"paper": 4, "all": 13}.get(option, 1)
    assert len(tasks) == size and (size != 1 or list(tasks) == [option])


@pytest.mark.parametrize("option", [Path(f).stem for f in FILES if f.startswith("negatives/")])
def test_negatives_take_their_keys(option):
    """That each runs is tested in tests/hard_negatives and tests/integration/test_negatives.py."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("negatives", [f"negatives={option}", "input=x.csv"])
    target, settings = check_node(cfg.negatives, "negatives")
    known = set(inspect.signature(target).parameters) - {"kinds", "count", "seed"}  # those come from the root
    assert set(settings) == known and settings["tagger"] == "hanta"


@pytest.mark.parametrize("file", [f for f in FILES if f.startswith("model/")])
def test_models_take_their_keys(file):
    cfg = composed(f"model={Path(file).stem}")
    target, settings = check_node(cfg.model, "model")
    assert target.__name__ == "load_clip" and "quick_gelu" in settings


@pytest.mark.parametrize("option", ["vit_b_32", "vit_b_16", "rn50", "tiny", "scenes"])
def test_models_build_and_encode(option):

    model = instantiate(composed(f"model={option}", "model.pretrained=null").model, "model")
    tokens = model.tokenizer(["a dog", "two cats"])
    height, width = model.image_size
    image, text, scale = model.eval()(torch.zeros(2, 3, height, width, dtype=torch.uint8), tokens)[:3]
    assert image.shape == text.shape == (2, image.shape[1]) and scale.shape == ()
    torch.testing.assert_close(image.norm(dim=-1), torch.ones(2))


@pytest.mark.parametrize(
    "overrides",
    [
        *[[f"objective={name}"] for name in OBJECTIVES],
        *[[f"teacher={name}"] for name in ("ema", "frozen")],
        ["teacher=none", "objective=negclip"],
        *[[f"scheduler={Path(f).stem}"] for f in FILES if f.startswith("scheduler/")],
        ["precision=bf16-mixed"],
        ["precision=32", "strategy=auto"],
        ["loader.negatives=one_per_type", "loader.num_negatives=5", "objective=ce_clip"],
        ["loader.negatives=random"],
        ["loader.num_negatives=0"],
        ["model.grad_checkpointing=true"],
        ["loader.chunk_size=2"],
        ["teacher=frozen", "teacher.text_cache=teacher_texts"],
        ["optimizer.fused=false", "float32_matmul=high"],
        ["model.unlocked_image_groups=0"],
        ["model.context_length=248", "optimizer.layer_decay=0.7"],
        *[[f"adapter={Path(f).stem}"] for f in FILES if f.startswith("adapter/")],
        ["objective.local_loss=false"],
        ["data=scenes", "data.num_scenes=40", "~data.path"],
        ["data=scenes_and_general", "data.num_rows=40", "objective=clip"],
        ["benchmark=scenes", "benchmark.scenes.num_items=4"],
        ["benchmark=scenes", "benchmark.scenes=null"],
        ["data@val_data=scenes", "val_data.num_scenes=9", "loader.val_fraction=0"],
    ],
    ids=" ".join,
)
def test_two_steps_with(photos, tmp_path, monkeypatch, overrides):
    monkeypatch.chdir(tmp_path)
    overrides = [o for o in overrides if not o.startswith("~")]
    if any(override.startswith("data=scenes") for override in overrides):
        cfg = composed("model=tiny", *overrides, "loader.num_workers=0", "loader.global_batch_size=4",
                       "trainer.accelerator=cpu", "callbacks.progress_bar=null", "trainer.max_steps=2",
                       "trainer.log_every_n_steps=1", run_dir=str(tmp_path))  # fmt: skip
    else:
        cfg = tiny(photos, str(tmp_path), *overrides)
    run = build(cfg)
    run.trainer.fit(run.module, run.datamodule)
    assert run.trainer.global_step == 2
    assert math.isfinite(run.trainer.callback_metrics["train/loss"])
    assert (run.module.teacher is not None) == run.module.objective.uses_teacher


def test_an_experiment_without_its_benchmark(tmp_path):
    """``experiment=demo benchmark=none`` leaves keys of the scenes without their ``_target_``."""
    cfg = composed("experiment=demo", "benchmark=none", "data.num_scenes=64", "loader.num_workers=0",
                   "trainer.max_steps=1", "callbacks.progress_bar=null", run_dir=str(tmp_path))  # fmt: skip
    assert set(cfg.benchmark.scenes) == {"split", "num_items"}
    run = build(cfg)
    assert not any(type(callback).__name__ == "Evaluate" for callback in run.trainer.callbacks)


def test_a_finished_run_with_targets_of_earlier_names_is_the_same_run(tmp_path):
    cfg = composed("experiment=demo", run_dir=str(tmp_path))
    text = OmegaConf.to_yaml(cfg, resolve=True).replace("degla.training.callbacks.", "degla.callbacks.")
    text = text.replace("degla.training.optim.", "degla.optim.").replace(
        "degla.data.datamodule.Data", "degla.data.Data"
    )
    (tmp_path / "config.yaml").write_text(text)
    mark_as_finished(tmp_path, num_steps=200, value=0.5)
    assert "_target_: degla.optim.adamw" in text and finished_value(cfg, tmp_path) == 0.5
    (tmp_path / "config.yaml").write_text(text.replace("  lr: 0.001", "  lr: 0.1"))
    assert finished_value(cfg, tmp_path) is None


def test_a_loss_that_is_not_finite_stops_the_run(photos, tmp_path):
    run = build(tiny(photos, str(tmp_path)))
    with torch.no_grad():
        run.module.student.clip.visual.proj[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"not finite at step 0 .*contrastive nan.*optimizer\.lr"):
        run.trainer.fit(run.module, run.datamodule)


def test_the_papers_recipe_to_the_number():
    """Facts of the released script; see docs/training.md."""
    cfg = composed("experiment=vitb32")
    assert (cfg.model.name, cfg.model.pretrained, cfg.model.quick_gelu) == ("ViT-B-32", "openai", True)
    assert (cfg.loader.global_batch_size, cfg.loader.epochs, cfg.loader.num_negatives) == (256, 5, 4)
    assert (cfg.loader.negatives, list(cfg.loader.crop_scale), cfg.loader.drop_last) == ("first", [0.9, 1.0], True)
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay, cfg.optimizer.eps) == (1e-6, 0.1, 1e-6)
    assert list(cfg.optimizer.betas) == [0.9, 0.98]
    assert (cfg.scheduler.warmup_steps, cfg.scheduler.final_fraction) == (50, 0.0)
    assert (cfg.teacher.decay, cfg.precision, cfg.seed) == (0.9996, "16-mixed", 42)
    terms = cfg.objective.terms
    weights = (terms.contrastive.weight, terms.igc.weight, terms.tgc.weight, terms.distill.weight)
    assert weights == (1.0, 0.1, 0.1, 1.28) and terms.tgc.scale == 10.0
    assert cfg.trainer.gradient_clip_val is None and cfg.trainer.accumulate_grad_batches == 1


def test_schedule_and_groups_are_the_released_ones():
    from degla.models import load_clip
    from degla.training.optim import adamw, cosine

    model = load_clip("degla-tiny")
    optimizer = adamw(model, lr=1e-6)
    by_id = {id(p): name for name, p in model.named_parameters()}
    plain, decayed = ([by_id[id(p)] for p in group["params"]] for group in optimizer.param_groups)
    assert optimizer.param_groups[0]["weight_decay"] == 0 and optimizer.param_groups[1]["weight_decay"] == 0.1
    assert "clip.logit_scale" in plain and "clip.ln_final.weight" in plain
    assert "clip.token_embedding.weight" in decayed and "clip.visual.proj" in decayed
    assert len(plain) + len(decayed) == len(list(model.parameters()))
    schedule = cosine(optimizer, total_steps=1000, warmup_steps=50)
    rates = []
    for _ in range(1000):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = [1e-6 * (s + 1) / 50 if s < 50 else 0.5 * (1 + math.cos(math.pi * (s - 50) / 950)) * 1e-6
                for s in range(1000)]  # fmt: skip
    assert rates == pytest.approx(expected, rel=1e-9, abs=1e-20)
    assert torch.is_tensor(model.clip.logit_scale)


def test_sweep_files_compose():
    assert composed("+sweep=learning_rate").optimizer.lr == 1e-6
    assert composed("+sweep=study").ckpt_path == "last"
    for sweep in ("study", "study_full"):  # a sweep is applied last, and must not undo what a method sets
        assert composed(f"+sweep={sweep}", "experiment=study/degla_frozen_teacher").teacher.decay is None


STUDY = sorted(Path(file).stem for file in FILES if file.startswith("experiment/study/"))


def test_the_full_study_sweeps_over_every_method():
    short, full = (OmegaConf.load(CONFIGS / "sweep" / f"{name}.yaml").hydra.sweeper.params
                   for name in ("study", "study_full"))  # fmt: skip
    methods = {name.strip() for name in full.experiment.split(",")}
    assert methods == {f"study/{name}" for name in STUDY}
    assert {name.strip() for name in short.experiment.split(",")} < methods
    assert len(full["optimizer.lr"].split(",")) >= 3 and len(full.seed.split(",")) >= 5


TERMS = {
    "clip": {"contrastive"},
    "negclip": {"contrastive"},
    "ce_clip": {"contrastive", "imc", "cmr"},
    "negatives_igc": {"contrastive", "igc"},
    "negatives_tgc": {"contrastive", "tgc"},
    "negatives_igc_tgc": {"contrastive", "igc", "tgc"},
    "fsc_clip": {"contrastive", "focal"},
    "cs_clip": {"contrastive", "unit_contrast"},
    "read_align": {"contrastive", "paraphrase"},
}


@pytest.mark.parametrize("name", STUDY)
def test_methods_of_the_study_run_and_share_their_settings(name, tmp_path):
    short = ["data.num_scenes=64", "loader.global_batch_size=8", "loader.num_workers=0", "trainer.max_steps=2",
             "trainer.log_every_n_steps=1", "benchmark.scenes.num_items=4", "callbacks.progress_bar=null"]  # fmt: skip
    cfg = composed(f"experiment=study/{name}", *short, run_dir=str(tmp_path))
    assert cfg.name == name
    base = composed("experiment=scenes_finetune", *short, run_dir=str(tmp_path))
    for group in ("loader", "optimizer", "scheduler", "trainer", "benchmark"):
        assert cfg[group] == base[group]
    run = build(cfg)
    run.trainer.fit(run.module, run.datamodule)
    assert math.isfinite(run.trainer.callback_metrics["train/loss"])
    assert set(run.module.objective.weights) == TERMS.get(name, {"contrastive", "igc", "tgc", "distill"})


@pytest.mark.parametrize("name", ["demo", "scenes_pretrain", "scenes_finetune", "vitb32"])
def test_experiments_say_how_they_are_run(name):
    text = (CONFIGS / "experiment" / f"{name}.yaml").read_text()
    assert "command" in text and "hardware" in text
    assert composed(f"experiment={name}").name == name


def test_table_sources_are_tables(photos):

    for overrides in ([f"data.path={photos}"], ["data=scenes", "data.num_scenes=5"]):
        assert isinstance(instantiate(composed(*overrides).data, "data"), SampleTable)
