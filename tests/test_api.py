"""degla.finetune, degla.evaluate and degla.load, run for real on the built-in model and scenes."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from PIL import Image

import degla
from degla.api.spec import model_values
from degla.cli.compose import compose_config
from degla.errors import CheckpointError, ConfigError, DataError, DeglaError
from tests.conftest import degla as command
from tests.conftest import only_run

SHORT = {
    "data": {"option": "scenes", "num_scenes": 64},
    "model": "scenes",
    "loader": {"global_batch_size": 16, "num_workers": 0, "val_fraction": 0.1},
    "trainer": {"max_steps": 3, "accelerator": "cpu", "log_every_n_steps": 1},
    "callbacks.progress_bar": None,
}
SHORT_COMMAND = (
    *("data=scenes", "data.num_scenes=64", "model=scenes", "loader.global_batch_size=16", "loader.num_workers=0"),
    *("loader.val_fraction=0.1", "trainer.max_steps=3", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1"),
    "callbacks.progress_bar=null",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> degla.Run:
    return degla.finetune(**SHORT, runs_dir=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def scenes() -> degla.Model:
    return degla.load("scenes", device="cpu")


# ---- the package --------------------------------------------------------------------------------------------------


def python(code: str, **options) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, **options)
    return result.stdout.strip()


def test_importing_degla_imports_no_torch():
    code = "import sys, degla; dir(degla); degla.__version__; print('torch' in sys.modules, 'hydra' in sys.modules)"
    assert python(code) == "False False"


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="has no attribute 'fine_tune'"):
        degla.fine_tune  # noqa: B018
    assert {"finetune", "evaluate", "load"} <= set(dir(degla))


@pytest.mark.parametrize(
    "before",
    [
        "",
        "import degla.evaluate",
        "from degla.evaluate import main",
        "import degla.evaluate as program; program.main",
        "import importlib; importlib.import_module('degla.evaluate').main",
        "from degla import evaluate; assert evaluate is degla.evaluate",
        "import degla.train, degla.cli.main",
    ],
)
def test_evaluate_can_be_called_whatever_was_imported_before(before):
    """What the call does is tested below; here it must not matter who has imported the program of that name."""
    code = f"""
import sys, degla
{before}
print(callable(degla.evaluate), degla.evaluate is sys.modules["degla.evaluate"], callable(degla.evaluate.main))
"""
    assert python(code) == "True True True"


def test_the_program_of_the_same_name_still_runs(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "degla.evaluate", "--cfg", "job"], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 0 and "benchmark:" in result.stdout


# ---- load ---------------------------------------------------------------------------------------------------------


def test_images_of_common_types_are_accepted(scenes, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    kinds = [
        tmp_path / "image.png",
        str(tmp_path / "image.png"),
        (tmp_path / "image.png").read_bytes(),
        Image.fromarray(pixels),
        Image.open(tmp_path / "image.png"),
        pixels,
        torch.from_numpy(pixels).permute(2, 0, 1),
    ]
    together = scenes.encode_image(kinds)
    assert together.shape == (7, scenes.clip.config["embed_dim"]) and together.dtype == torch.float32
    torch.testing.assert_close(together.norm(dim=1), torch.ones(7))
    for kind in kinds:
        torch.testing.assert_close(scenes.encode_image(kind), together[:1])


def test_scores_are_the_cosines_of_the_features(scenes):
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    captions = ["a red circle", "a blue square left of a green ring"]
    scores = scenes.score(list(images), captions)
    assert scores.shape == (3, 2)
    torch.testing.assert_close(scores, scenes.encode_image(list(images)) @ scenes.encode_text(captions).T)
    assert scenes.score(images[0], "a red circle").shape == (1, 1), "one caption is not a list of letters"
    torch.testing.assert_close(scenes.score(images[0], captions[0]), scores[:1, :1])
    assert scenes.score([], captions).shape == (0, 2) and scenes.score(images[0], []).shape == (1, 0)


def test_batches_change_nothing(scenes):
    small = degla.load("scenes", device="cpu", batch_size=2)
    images = list(np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3), dtype=np.uint8))
    captions = ["a red circle", "a blue square left of a green ring", "two rings", "a", "a small green triangle"]
    torch.testing.assert_close(small.score(images, captions), scenes.score(images, captions))


def test_a_model_knows_captions_from_negatives(scenes, tmp_path):
    """The built-in model, on the first drawn scenes: nearly every caption against a caption of another scene."""
    from degla.data.sources import scenes as source

    table = source(num_scenes=50, split="test", cache_dir=str(tmp_path))
    samples = table.samples(list(range(50)))
    scores = scenes.score([sample.image_bytes for sample in samples], [sample.caption for sample in samples])
    assert (scores.diagonal() > scores.roll(1, 1).diagonal()).float().mean() > 0.9


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("nothing.jpg", "no such file: nothing.jpg"),
        (b"no image", "not an image"),
        (np.zeros((4, 4), np.uint8), r"type ndarray and shape \(4, 4\) cannot be used"),
        (np.zeros((4, 4, 3)), "a .H, W, 3. uint8 array"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r"shape \(4, 4, 3\)"),
    ],
)
def test_images_that_cannot_be_used(scenes, image, message):
    with pytest.raises(DataError, match=message):
        scenes.encode_image(image)


def test_models_are_found_by_folder_checkpoint_option_and_name(run):
    checkpoint = next((run.folder / "checkpoints").glob("*.ckpt"))
    for name in (run.folder, run.folder / "model", checkpoint, str(checkpoint)):
        loaded = degla.load(name, device="cpu")
        for key, value in run.model.clip.state_dict().items():
            assert torch.equal(value, loaded.clip.state_dict()[key]), (name, key)
    assert model_values("ViT-B-32/openai") == {"name": "ViT-B-32", "pretrained": "openai", "quick_gelu": None}
    assert model_values("hf-hub:org/name")["name"] == "hf-hub:org/name"
    assert model_values("vit_b_16") == {"option": "vit_b_16"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scnes", "did you mean scenes?"),
        ("ViT-B-32", "needs its tag, such as ViT-B-32/openai"),
        ("runs/nothing/model", "is not a folder, a file or an option"),
        ("ViT-B-32/opnai", "model.pretrained=opnai is neither a file"),
    ],
)
def test_unknown_models(name, message):
    with pytest.raises(ConfigError, match=message):
        degla.load(name)


def test_files_that_are_not_models_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"holds neither open_clip_config\.json nor .* nor a run"):
        degla.load(tmp_path)
    (tmp_path / "step-1.ckpt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"step-1\.ckpt"):
        degla.load(tmp_path / "step-1.ckpt")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match="does not record its architecture: set architecture"):
        degla.load(tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match="device=tpu is not available"):
        degla.load("scenes", device="tpu")


# ---- finetune -----------------------------------------------------------------------------------------------------


def test_finetune_is_the_run_of_the_program(run, tmp_path):
    """The same settings give the same numbers and the same weights."""
    command(*SHORT_COMMAND, cwd=tmp_path)
    folder = only_run(tmp_path)
    theirs = degla.Run(folder, 0.0)
    assert {name: value for name, value in run.history.items() if "second" not in name} == {
        name: value for name, value in theirs.history.items() if "second" not in name
    }
    for key, value in theirs.model.clip.state_dict().items():
        assert torch.equal(value, run.model.clip.state_dict()[key]), key


def test_a_run_has_report_metrics_and_model(run):
    assert run.report.is_file() and run.folder.is_dir()
    assert 0 <= run.metrics["val/caption_choice"] <= 1 and run.value == run.metrics["val/caption_choice"]
    assert set(run.history["train/loss"]) >= {1, 2} or len(run.history["train/loss"]) == 3
    before = degla.load("scenes", device="cpu").clip.state_dict()
    after = run.model.clip.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before), "it has learnt something"
    assert run.model.score(np.zeros((48, 48, 3), np.uint8), ["a", "b"]).shape == (1, 2)


def test_finetune_on_a_folder_of_photos(photo_folder, tmp_path):
    more = {key: value for key, value in SHORT.items() if key not in ("data", "model")}
    more["loader"] = {"global_batch_size": 8, "num_workers": 0}
    run = degla.finetune(photo_folder, model="tiny", objective="clip", runs_dir=tmp_path / "a", **more)
    assert "train/loss_contrastive" in run.metrics and "train/loss_igc" not in run.metrics
    named = degla.finetune(
        photo_folder / "captions.jsonl", model="tiny", objective="clip", runs_dir=tmp_path / "b", **more
    )
    assert named.metrics["train/loss"] == run.metrics["train/loss"]


def test_a_run_resumes(run):
    more = {**SHORT, "trainer": {**SHORT["trainer"], "max_steps": 5}}
    resumed = degla.finetune(**more, run_dir=run.folder, runs_dir=run.folder.parent.parent, ckpt_path="last")
    assert resumed.folder == run.folder and max(resumed.history["train/loss"]) > 3


def test_errors_are_exceptions_and_name_the_key(tmp_path):
    for values, message in (
        ({"loader": {"epoch": 1}}, r"'epoch'.*did you mean loader\.epochs"),
        ({"objective": "DeGLA"}, "did you mean objective=degla"),
        ({"loader": {"global_batch_size": "many"}}, r"loader\.global_batch_size"),
        ({"data": "nowhere"}, "data=nowhere is not a folder, a file or an option"),
        ({"model": "nothing"}, "model=nothing is not a folder"),
        ({"trainer": {**SHORT["trainer"], "devices": 2}}, r"trainer\.devices=2: degla\.finetune runs in one process"),
    ):
        with pytest.raises(ConfigError, match=message):
            degla.finetune(**{**SHORT, "runs_dir": tmp_path, **values})
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_folder_that_holds_a_run_is_refused(run):
    with pytest.raises(ConfigError, match="holds a run already"):
        degla.finetune(**SHORT, run_dir=run.folder)


def test_nothing_global_is_changed(tmp_path):
    names = ("", "lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero", "degla")

    def state():
        loggers = [logging.getLogger(name) for name in names]
        handlers = [(logger.handlers[:], logger.filters[:], logger.level, logger.disabled) for logger in loggers]
        signals = [
            signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
        ]
        levels = {name: logging.getLogger(name).level for name in logging.root.manager.loggerDict}
        known = {name: level for name, level in levels.items() if name in known_before}
        return (
            handlers,
            known,
            datasets.are_progress_bars_disabled(),
            warnings.filters[:],
            sys.argv[:],
            os.environ.get("HYDRA_FULL_ERROR"),
            signals,
            Path.cwd(),
        )

    known_before = set(logging.root.manager.loggerDict)
    before = state()
    degla.finetune(**SHORT, runs_dir=tmp_path)
    assert state() == before
    assert not GlobalHydra.instance().is_initialized() and not HydraConfig.initialized()


def test_nothing_is_printed(tmp_path, capsys):
    degla.finetune(**SHORT, runs_dir=tmp_path)
    assert capsys.readouterr().out == ""


def test_a_signal_is_an_exception_and_the_run_resumes(tmp_path):
    def stop_when_it_has_begun(number):
        while not any(path.read_text().count("\n") > 3 for path in tmp_path.rglob("metrics.csv")):
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    long = {**SHORT, "trainer": {**SHORT["trainer"], "max_steps": 2000}, "loader": {**SHORT["loader"], "epochs": 1000}}
    for number, expected in ((signal.SIGTERM, DeglaError), (signal.SIGINT, KeyboardInterrupt)):
        for path in tmp_path.rglob("metrics.csv"):
            path.unlink()
        threading.Thread(target=stop_when_it_has_begun, args=(number,), daemon=True).start()
        with pytest.raises(expected, match="ckpt_path='last' resumes it"):
            degla.finetune(**long, run_dir=tmp_path / "run", ckpt_path="last")
    assert list((tmp_path / "run" / "checkpoints").glob("step-*.ckpt"))


# ---- evaluate -----------------------------------------------------------------------------------------------------

FEW = {"benchmark.scenes.num_items": 10, "num_workers": 0, "device": "cpu", "explorer_items": 0}


def test_evaluate_gives_the_numbers_of_the_program(scenes, tmp_path):
    results = degla.evaluate(scenes, "scenes", runs_dir=tmp_path / "api", **FEW)
    command(
        *("benchmark=scenes", "benchmark.scenes.num_items=10", "num_workers=0", "device=cpu", "model=scenes"),
        cwd=tmp_path,
        program="evaluate",
    )
    theirs = json.loads((only_run(tmp_path, "evaluate") / "results.json").read_text())
    subsets = theirs["benchmarks"]["scenes"]["subsets"]
    assert results.accuracy == {f"scenes/{name}": scores["accuracy"] for name, scores in subsets.items()}
    assert results.interval == {f"scenes/{name}": tuple(scores["interval"]) for name, scores in subsets.items()}
    assert results.record["model"] == theirs["model"]
    assert results.report.is_file() and "scenes/sugarcrepe/swap_obj" in str(results)
    saved = (results.folder / "config.yaml").read_text()
    assert "degla-scenes" in saved and "openai" not in saved


def test_a_model_in_memory_is_measured_as_it_is(tmp_path):
    model = degla.load("scenes", device="cpu")
    with torch.no_grad():
        for parameter in model.clip.parameters():
            parameter.zero_()
    results = degla.evaluate(model, "scenes", runs_dir=tmp_path, label="zeros", **FEW)
    assert results.label == "zeros" and set(results.accuracy.values()) == {0.0}, "an encoder that sees nothing scores 0"


def test_results_are_compared(run, tmp_path):
    base = degla.evaluate("scenes", ["scenes"], runs_dir=tmp_path, **FEW)
    tuned = degla.evaluate(run, ["scenes"], compare=[base], runs_dir=tmp_path, **FEW)
    assert base.folder != tuned.folder and tuned.record["model"] != base.record["model"]
    page = tuned.report.read_text()
    assert base.label in page and tuned.label in page
    again = degla.evaluate(run.folder, ["scenes"], compare=[base.folder], runs_dir=tmp_path, **FEW)
    assert again.accuracy == tuned.accuracy


def test_errors_of_evaluate(scenes, tmp_path):
    for arguments, message in (
        ({"benchmark": "none"}, "benchmark=none measures nothing"),
        ({"benchmark": "sugarcrpe"}, "did you mean benchmark=sugarcrepe"),
        ({"benchmark": "sugarcrepe", "data_dir": str(tmp_path)}, "sugarcrepe"),
        ({"benchmark": "scenes", "precison": "32"}, "did you mean precision"),
        ({"benchmark": "scenes", "doctor": True}, "for degla-evaluate, which prints"),
    ):
        with pytest.raises(DeglaError, match=message):
            degla.evaluate(scenes, runs_dir=tmp_path, **arguments)


# ---- composing ----------------------------------------------------------------------------------------------------


def test_values_become_options_and_keys(tmp_path):
    cfg = compose_config(
        "train",
        {
            "model": {"option": "tiny", "grad_checkpointing": True},
            "teacher": "frozen",
            "benchmark": ["scenes", "sugarcrepe"],
            "val_data": "scenes",
            "optimizer": {"lr": 1e-4},
            "trainer.max_steps": 7,
            "loader": {"crop_scale": (0.5, 1.0)},
            "runs_dir": tmp_path,
            "objective": {"contrastive": 0.5},
        },
    )
    assert cfg.model.name == "degla-tiny" and cfg.model.grad_checkpointing is True
    assert cfg.teacher.decay is None and set(cfg.benchmark) == {"scenes", "sugarcrepe"}
    assert cfg.val_data._target_.endswith("scenes") and cfg.optimizer.lr == 1e-4 and cfg.trainer.max_steps == 7
    assert cfg.loader.crop_scale == [0.5, 1.0] and cfg.objective.terms.contrastive.weight == 0.5
    assert Path(cfg.run_dir).parent == tmp_path / "train" and cfg.callbacks.checkpoint.dirpath.startswith(cfg.run_dir)


def test_an_experiment_is_overridden_by_keys(tmp_path):
    cfg = compose_config("train", {"experiment": "demo", "runs_dir": tmp_path, "optimizer.lr": 1.0, "name": "mine"})
    assert cfg.optimizer.lr == 1.0 and cfg.name == "mine" and Path(cfg.run_dir).parent == tmp_path / "mine"
