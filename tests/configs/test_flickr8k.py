"""experiment=flickr8k and +sweep=folds: the recipe of experiment=small, with a held-out fold that chooses nothing."""

from omegaconf import OmegaConf

from degla.cli.compose import compose_config
from degla.cli.instantiate import check_node
from degla.cli.paths import config_dir

SWEEP = OmegaConf.load(f"{config_dir()}/sweep/folds.yaml")


def test_the_recipe_is_that_of_small_with_folds():
    cfg, small = (compose_config("train", {"experiment": name}) for name in ("flickr8k", "small"))
    for group in ("model", "objective", "teacher", "optimizer", "scheduler", "adapter"):
        assert cfg[group] == small[group]
    assert (cfg.model.name, cfg.model.pretrained) == ("ViT-B-32", "openai")
    differ = {key for key in cfg.loader if cfg.loader[key] != small.loader[key]}
    assert differ == {"num_folds", "val_fraction", "max_val_rows", "report_path"}
    for group in ("model", "data", "loader", "optimizer", "scheduler", "trainer"):
        check_node(cfg[group], group)
    check_node(cfg.callbacks.text_only, "callbacks.text_only")


def test_the_held_out_fold_chooses_nothing():
    cfg = compose_config("train", {"experiment": "flickr8k"})
    assert cfg.callbacks.early_stopping is None and "retention" not in cfg.callbacks
    assert cfg.trainer.val_check_interval > cfg.trainer.max_steps > 0  # before the first step and after the last


def test_the_sweep_runs_every_fold():
    cfg = compose_config("train", {"experiment": "flickr8k"})
    folds = str(SWEEP.hydra.sweeper.params["loader.fold"]).split(",")
    assert list(map(int, folds)) == list(range(cfg.loader.num_folds))


def test_the_sweep_makes_folds_of_other_recipes_too():
    cfg = compose_config("train", {"experiment": "small"})
    assert cfg.loader.val_fraction and cfg.callbacks.early_stopping is not None and cfg.loader.num_folds is None
    merged = OmegaConf.merge(cfg, {key: SWEEP[key] for key in ("loader", "callbacks")})
    assert (merged.loader.num_folds, merged.loader.val_fraction, merged.callbacks.early_stopping) == (5, 0, None)


def test_a_machine_without_weights_can_run_it():
    cfg = compose_config("train", {"experiment": "flickr8k", "model": {"option": "tiny", "pretrained": None}})
    assert cfg.model.name == "degla-tiny" and cfg.model.pretrained is None
