"""Loggers: TensorBoard's HPARAMS tab, W&B offline, MLflow in a local database, and what each is given."""

import importlib.util
import io
import sqlite3
import time

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from degla.artifacts import newest_checkpoint, read_metrics
from degla.data.batch import Batch
from degla.data.schema import Negative, Sample
from degla.errors import MissingDependencyError
from degla.models import load_clip
from degla.training.build import build
from degla.training.callbacks.batch_images import scored_samples
from degla.training.fit import fit_or_explain
from degla.training.panels import ScoredText, draw_panel
from tests.configs.test_configs import tiny
from tests.conftest import make_photo_folder


@pytest.fixture
def fit(tmp_path):
    photos = make_photo_folder(tmp_path / "photos")

    def run(*overrides, name="run"):
        L.seed_everything(0)  # as degla-train does
        run = build(tiny(photos, str(tmp_path / name), "callbacks.export=null", *overrides))
        fit_or_explain(run, checkpoint=None, resumes_when_requeued=False)
        return tmp_path / name

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
    for text in (b"train/loss_distill", b"val/caption_choice", b"objective.igc", b"samples/0"):
        assert text in content, text
    assert len(list((offline / "files" / "media" / "images" / "samples").iterdir())) == 4
    assert "train/loss" in read_metrics(folder / "metrics.csv")


def test_mlflow_in_a_local_database(fit):
    pytest.importorskip("mlflow", reason="needs mlflow: pip install 'degla[mlflow]'")
    folder = fit("logger=mlflow")
    with sqlite3.connect(folder / "mlflow.db") as database:
        assert dict(database.execute("select key, value from params"))["lr"] == "1e-06"
        assert ("train/loss_igc",) in database.execute("select distinct key from metrics").fetchall()
    assert (folder / "mlflow_run_id").is_file()


def weights(folder):
    return torch.load(newest_checkpoint(folder / "checkpoints"), weights_only=True)["state_dict"]


def test_tensorboard_shows_samples_with_their_scores_over_time(fit):
    """One picture per sample and step; the scores in the table are those of the untrained and the trained student."""
    folder = fit("callbacks.batch_images.every_n_steps=1", "callbacks.batch_images.num_images=2", "optimizer.lr=1e-2")
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert sorted(events.Tags()["images"]) == ["samples/0", "samples/1"]
    shown = events.Images("samples/0")
    assert [event.step for event in shown] == [0, 1]
    picture = Image.open(io.BytesIO(shown[0].encoded_image_string))
    assert picture.width > 2 * 224 and picture.height >= 224
    for event in events.Tensors("samples/texts/text_summary"):
        rows = [line.split(" | ") for line in event.tensor_proto.string_val[0].decode().splitlines()[2:]]
        assert rows[0][1] == "**caption**" and {row[0] for row in rows} == {"| 0", "| 1"}
        for number in ("| 0", "| 1"):
            cells = [row[2] for row in rows if row[0] == number]
            (marked,) = (cell for cell in cells if cell.startswith("**"))
            assert len(cells) > 1 and float(marked.strip("*")) == max(float(cell.strip("*")) for cell in cells)


def test_showing_samples_does_not_change_training(fit):
    expected = weights(fit("callbacks.batch_images=null", name="without"))
    actual = weights(fit("callbacks.batch_images.every_n_steps=1", "callbacks.batch_images.num_images=3"))
    assert actual.keys() == expected.keys() and all(torch.equal(actual[name], expected[name]) for name in expected)


def test_scores_are_cosines_and_the_students_mode_is_kept():
    torch.manual_seed(0)
    student = load_clip("degla-tiny").train()
    samples = [Sample("a", None, None, "a dog on a mat", []), Sample("b", None, None, "two cats", [])]
    slots = [[Negative("a mat on a dog", "swap_nouns"), None], [None, None]]
    images = torch.randint(0, 256, (2, 3, *student.image_size), dtype=torch.uint8)
    nothing = torch.empty(0)
    batch = Batch(images, nothing, nothing, nothing, samples, slots, [])
    before = torch.get_rng_state()
    first, second = scored_samples(student, batch, num_samples=8)
    assert torch.equal(before, torch.get_rng_state()) and student.training and student.clip.training
    assert [text.kind for text in first] == ["caption", "swap_nouns"] and [text.kind for text in second] == ["caption"]
    with torch.no_grad():
        student.eval()
        features = student.encode_text(student.tokenizer(["a dog on a mat", "a mat on a dog"]))
        expected = features @ student.encode_image(images[:1])[0]
    assert [text.score for text in first] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_panel_has_room_for_every_text():
    """Also for a word that is wider than a line, a text of a thousand words, and characters that the font lacks."""
    image = torch.zeros(3, 32, 64, dtype=torch.uint8)
    texts = [
        ScoredText("caption", "a dog", 0.2),
        ScoredText("k", "x" * 300, 0.3),
        ScoredText("k", "猫 \ud800 a\0b", None),
    ]
    panel = draw_panel(image, texts)
    assert panel.dtype == np.uint8 and (panel[20, 20] == 0).all() and (panel[-1] == 255).all()
    assert not (panel == (208, 240, 208)).all(-1).any() and (panel == (250, 214, 210)).all(-1).any()  # a negative leads
    taller = draw_panel(image, [*texts, ScoredText("k", "word " * 1000, 0.1)])
    assert panel.shape[1] == taller.shape[1] and panel.shape[0] < taller.shape[0] < panel.shape[0] + 200
