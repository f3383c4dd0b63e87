"""Loggers: TensorBoard's HPARAMS tab, W&B offline, MLflow in a local database, and what each is given."""

import importlib.util
import sqlite3
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from degla.artifacts import read_metrics
from degla.errors import MissingDependencyError
from degla.training.build import build
from degla.training.fit import fit_or_explain
from tests.configs.test_configs import tiny
from tests.conftest import make_photo_folder


@pytest.fixture
def fit(tmp_path):
    photos = make_photo_folder(tmp_path / "photos")

    def run(*overrides):
        run = build(tiny(photos, str(tmp_path / "run"), "callbacks.export=null", *overrides))
        fit_or_explain(run, checkpoint=None, resumes_when_requeued=False)
        return tmp_path / "run"

    return run


def hparams(folder):
    events = EventAccumulator(str(folder)).Reload()
    metadata = [events.SummaryMetadata(tag) for tag in events.PluginTagToContent("hparams")]
    messages = [plugin_data_pb2.HParamsPluginData.FromString(item.plugin_data.content) for item in metadata]
    (start,) = (message.session_start_info for message in messages if message.HasField("session_start_info"))
    (experiment,) = (message.experiment for message in messages if message.HasField("experiment"))
    settings = {name: value.number_value or value.string_value for name, value in start.hparams.items()}
    return settings, [info.name.tag for info in experiment.metric_infos], events.Tags()["scalars"]


@pytest.mark.parametrize("val_fraction", [0.0, 0.3])
def test_tensorboard_shows_the_main_settings(fit, val_fraction):
    folder = fit(f"loader.val_fraction={val_fraction}", "optimizer.lr=1e-3")
    settings, columns, scalars = hparams(folder / "tensorboard")
    assert settings["lr"] == 1e-3 and settings["model"] == "degla-tiny" and settings["objective.igc"] == 0.1
    assert 12 <= len(settings) <= 20 and not any("_target_" in name for name in settings)
    assert {"train/loss", "val/caption_choice", "eval_mean/overall"} <= set(columns)
    assert "epoch" not in scalars and "train/loss" in scalars
    assert "epoch" not in read_metrics(folder / "metrics.csv")


def test_the_report_has_its_numbers_whatever_the_logger(fit):
    folder = fit("logger=tensorboard")
    assert "train/loss" in read_metrics(folder / "metrics.csv")


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_missing_package_is_one_sentence(tmp_path, package):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(
        MissingDependencyError, match=rf"logger={package} needs {package}: pip install 'degla\[{package}\]'"
    ):
        build(tiny(make_photo_folder(tmp_path / "photos"), str(tmp_path / "run"), f"logger=[csv,{package}]"))


def test_wandb_offline(fit, monkeypatch):
    pytest.importorskip("wandb", reason="needs wandb: pip install 'degla[wandb]'")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = fit("logger=[tensorboard,wandb]", "logger.wandb.offline=true")
    (offline,) = (folder / "wandb").glob("offline-run-*")
    (record,) = offline.glob("run-*.wandb")
    deadline = time.monotonic() + 30
    while len(content := record.read_bytes()) < 1000 and time.monotonic() < deadline:  # W&B's own process writes it
        time.sleep(0.1)
    for text in (b"train/loss_distill", b"val/caption_choice", b"objective.igc", b"batch/images"):
        assert text in content, text
    assert len(list((offline / "files" / "media" / "images" / "batch").iterdir())) == 4
    assert "train/loss" in read_metrics(folder / "metrics.csv")


def test_mlflow_in_a_local_database(fit):
    pytest.importorskip("mlflow", reason="needs mlflow: pip install 'degla[mlflow]'")
    folder = fit("logger=mlflow")
    with sqlite3.connect(folder / "mlflow.db") as database:
        assert dict(database.execute("select key, value from params"))["lr"] == "1e-06"
        assert ("train/loss_igc",) in database.execute("select distinct key from metrics").fetchall()
    assert (folder / "mlflow_run_id").is_file()
