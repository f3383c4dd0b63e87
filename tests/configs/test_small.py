"""experiment=small: the recipe for few images composes, trains, and stops early."""

import math

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from degla.cli.main import config_dir
from degla.training.build import build
from tests.conftest import make_photo_folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photo_folder(tmp_path_factory.mktemp("small") / "photos", images=24)


def compose_small(*overrides: str, run_dir: str = "runs/x") -> DictConfig:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("train", overrides=["experiment=small", f"run_dir={run_dir}", *overrides])


def compose_tiny(photos, run_dir, *overrides: str) -> DictConfig:
    """The recipe with a model, a batch and intervals that a test can afford; everything else stays."""
    settings = [
        "model=tiny",
        f"data.path={photos}",
        "loader.num_workers=0",
        "loader.global_batch_size=8",
        "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=1",
        "callbacks.progress_bar=null",
        "callbacks.export=null",
    ]
    return compose_small(*settings, *overrides, run_dir=str(run_dir))


def test_three_steps(photos, tmp_path):
    run = build(compose_tiny(photos, tmp_path, "trainer.max_steps=3", "trainer.val_check_interval=2"))
    before = run.module.student.clip.visual.proj.detach().clone()
    run.trainer.fit(run.module, run.datamodule)
    assert run.trainer.global_step == 3
    assert math.isfinite(run.trainer.callback_metrics["train/loss"])
    assert (run.module.student.clip.visual.proj != before).any()


def test_a_run_that_does_not_improve_stops_early(photos, tmp_path):
    """With a rate of 0 the choice of captions stays what it was, so the run ends after ``patience`` validations."""
    overrides = ["optimizer.lr=0", "trainer.val_check_interval=2", "callbacks.early_stopping.patience=3"]
    run = build(compose_tiny(photos, tmp_path, *overrides))
    run.trainer.fit(run.module, run.datamodule)
    # The validation at step 2 sets the best value (the one before the first step does not count); three more follow.
    assert run.trainer.global_step == 8


def test_the_recipe_keeps_the_papers_proportions():
    """The teacher averages over a third of the run, and the warm-up is a small part of it, as in the paper."""
    cfg = compose_small("data.path=x")
    steps, horizon = cfg.trainer.max_steps, 1 / (1 - cfg.teacher.decay)
    assert 0.25 <= horizon / steps <= 0.45  # the paper: 2500 of 8000
    assert cfg.scheduler.warmup_steps / steps < 0.1
    assert cfg.callbacks.early_stopping.patience * cfg.trainer.val_check_interval < steps / 2
