"""A config may name constructors of ours, Lightning's classes and what the user lists in ``_target_``; nothing else."""

import re
import sys
import types
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from lightning.pytorch import LightningModule, Trainer
from omegaconf import OmegaConf

from degla.cli.instantiate import MOVED_TARGETS, check_node, current_target, instantiate, instantiate_each
from degla.cli.targets import find_target, own_constructors
from degla.errors import ConfigError, MissingDependencyError
from degla.training.build import build_objective

CONFIGS = Path(__file__).parents[2] / "configs"


def node(target, **settings):
    return OmegaConf.create({"_target_": target, **settings})


REFUSED = [
    # methods and functions that run pickles or write files
    "lightning.pytorch.LightningModule.load_from_checkpoint",
    "degla.training.module.DeGLAModule.load_from_checkpoint",
    "degla.data.datamodule.DataModule.load_from_checkpoint",
    "lightning.pytorch.core.saving.save_hparams_to_yaml",
    "lightning.pytorch.callbacks.ModelCheckpoint.load_state_dict",
    "lightning.pytorch.loggers.TensorBoardLogger.after_save_checkpoint",
    "lightning.pytorch.utilities.seed.isolate_rng",
    # classes that are none of Trainer, callbacks, loggers, strategies, plugins
    "lightning.pytorch.demos.boring_classes.BoringDataModule",
    "lightning.pytorch.LightningModule",
    "lightning.pytorch.loggers.tensorboard.Namespace",
    # what an allowed module imports
    "lightning.pytorch.loggers.csv_logs.os.system",
    "lightning.pytorch.loggers.tensorboard.save_hparams_to_yaml",
    "degla.training.build.os.system",
    "degla.artifacts.atomic_write",
    "degla.train.train",
    "degla.cli.main.run_program",
    # others
    "os.system",
    "builtins.eval",
    "torch.load",
    "",
    3,
    "degla",
    "degla..x",
]


@pytest.mark.parametrize("target", REFUSED)
def test_refused(target):
    with pytest.raises(ConfigError, match=r"^x\._target_=.* is not allowed: .*DEGLA_TARGETS|did you mean"):
        find_target(target, "x")


@pytest.mark.parametrize("target", ["lightning.pytorch.loggers.NoLogger", "lightning.pytorch.callbacks.x.y"])
def test_what_cannot_be_imported(target):
    with pytest.raises(ConfigError, match=r"^x\._target_=.* cannot be imported: "):
        find_target(target, "x")


@pytest.mark.parametrize(
    "target",
    [
        *("lightning.Trainer", "lightning.pytorch.Trainer", "lightning.pytorch.loggers.CSVLogger"),
        *("lightning.pytorch.callbacks.EarlyStopping", "lightning.pytorch.strategies.DDPStrategy"),
        *("lightning.pytorch.plugins.MixedPrecision", "lightning.pytorch.plugins.environments.SLURMEnvironment"),
        *("lightning.pytorch.plugins.io.AsyncCheckpointIO", "lightning.pytorch.profilers.SimpleProfiler"),
    ],
)
def test_lightnings_classes_are_allowed(target):
    assert find_target(target, "x").__name__ == target.rpartition(".")[2]


def test_every_target_of_the_configs_is_allowed():
    targets = set()
    for file in CONFIGS.rglob("*.yaml"):
        if "local" not in file.relative_to(CONFIGS).parts:
            targets |= set(re.findall(r"^\s*_target_: *(\S+)", file.read_text(), re.MULTILINE)) - {"null"}
    hydras = {"degla.cli.sweeps.SweepSummary", "degla.cli.folds.FoldSummary"}  # built by Hydra itself
    assert len(targets) > 40
    for target in targets - hydras:
        assert callable(find_target(target, "x")), target


def test_moved_targets_lead_to_constructors_of_today():
    for old, new in MOVED_TARGETS.items():
        ends = (
            [name.removeprefix(new) for name in own_constructors() if name.startswith(new)] if old[-1] == "." else [""]
        )
        assert ends, f"{new} leads nowhere"
        for end in ends:
            assert current_target(old + end) in own_constructors()


def test_a_users_own_code(monkeypatch, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/__init__.py").write_text("")
    (tmp_path / "mine/losses.py").write_text(
        "import os\nfrom shutil import rmtree\nclass Mine:\n    def __init__(self, x: int): self.x = x\n"
        "    @staticmethod\n    def touch(): raise AssertionError\ndef make(x: int): return Mine(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="for code of your own set DEGLA_TARGETS"):
        find_target("mine.losses.Mine", "x")
    assert "mine" not in sys.modules  # refused before it is imported, which would run it
    monkeypatch.setenv("DEGLA_TARGETS", "other.thing, mine.")
    assert instantiate(node("mine.losses.Mine", x=3), "x").x == instantiate(node("mine.losses.make", x=3), "x").x == 3
    with pytest.raises(ConfigError, match=r"x\.x='a' must be a whole number"):
        check_node(node("mine.losses.Mine", x="a"), "x")
    for name in (
        "mine.losses.rmtree",
        "mine.losses.os.system",
        "mine.losses.Mine.touch",
        "minecraft.x",
        "mine.losses",
    ):
        with pytest.raises(ConfigError, match="is not allowed"):
            find_target(name, "x")
    monkeypatch.setenv("DEGLA_TARGETS", "mine.losses.make")
    assert find_target("mine.losses.make", "x")
    with pytest.raises(ConfigError, match="is not allowed"):
        find_target("mine.losses.Mine", "x")


def test_a_users_config_folder_and_objective(monkeypatch, tmp_path):
    """The example of docs/configuration.md."""
    (tmp_path / "yours/configs/objective").mkdir(parents=True)
    (tmp_path / "yours/__init__.py").write_text("")
    (tmp_path / "yours/losses.py").write_text(
        "from degla.losses import Contrastive, Objective\nclass Mine(Objective):\n"
        "    def __init__(self, weight: float):\n        super().__init__({'contrastive': Contrastive(weight)})\n"
    )
    (tmp_path / "yours/configs/objective/mine.yaml").write_text("_target_: yours.losses.Mine\nweight: 2.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DEGLA_TARGETS", "yours.")
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", [f"hydra.searchpath=[file://{tmp_path}/yours/configs]", "objective=mine", "run_dir=x"])
    assert build_objective(cfg.objective).weights["contrastive"] == 2.0


def test_a_checkpoint_named_as_a_target_is_not_opened(tmp_path):
    """The config of the report: ``load_from_checkpoint`` with ``weights_only: false``."""
    (tmp_path / "evil.ckpt").write_bytes(b"cos\nsystem\n(S'touch x'\ntR.")
    with pytest.raises(ConfigError, match="is not allowed"):
        instantiate(
            node(
                "lightning.pytorch.LightningModule.load_from_checkpoint",
                checkpoint_path=str(tmp_path / "evil.ckpt"),
                weights_only=False,
            ),
            "logger.x",
        )
    assert callable(LightningModule.load_from_checkpoint) and not list(tmp_path.glob("x"))


def test_type_hints_that_exist_for_type_checkers_only():
    """WandbLogger names ``Run`` under TYPE_CHECKING; its other keys are still checked."""
    target, _ = check_node(node("lightning.pytorch.loggers.WandbLogger", project="p", offline=True), "logger.wandb")
    assert target.__name__ == "WandbLogger"
    with pytest.raises(ConfigError, match=r"logger.wandb.offline='maybe' must be true or false"):
        check_node(node("lightning.pytorch.loggers.WandbLogger", offline="maybe"), "logger.wandb")


@pytest.mark.parametrize(
    ("logger", "package", "modules"),
    [("WandbLogger", "wandb", ["wandb"]), ("CometLogger", "comet", ["comet_ml"])],
)
def test_a_missing_package_of_a_logger(logger, package, modules):
    if any(_is_installed(module) for module in modules):
        pytest.skip(f"{package} is installed")
    with pytest.raises(MissingDependencyError, match=rf"logger.x: {logger} needs the package {package}.*: pip install"):
        instantiate(node(f"lightning.pytorch.loggers.{logger}"), "logger.x")


def _is_installed(module):
    try:
        return isinstance(__import__(module), types.ModuleType)
    except ImportError:
        return False


def test_no_gpu_here():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=r"no such accelerator: set trainer\.accelerator=cpu"):
        instantiate(node("lightning.Trainer", accelerator="gpu"), "trainer")
    assert isinstance(instantiate(node("lightning.Trainer", accelerator="cpu", logger=False), "trainer"), Trainer)


def test_nodes_that_are_null_or_have_no_target_are_left_out():
    group = OmegaConf.create({"a": None, "b": {"split": "test"}, "c": {"_target_": None}})
    assert instantiate_each(group, "benchmark") == {} and instantiate_each(None, "benchmark") == {}
