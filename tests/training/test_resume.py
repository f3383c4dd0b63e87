"""What a resumed run may change: applied and named, or refused in one sentence."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from degla.artifacts import newest_checkpoint
from degla.data.sources import SampleStream
from degla.errors import CheckpointError, ConfigError
from degla.training.build import build
from degla.training.resume import FORMAT, KEY, check_resume, identify_data
from tests.configs.test_configs import tiny
from tests.conftest import make_photo_folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photo_folder(tmp_path_factory.mktemp("resume") / "photos")


def fit(photos, folder, *overrides, ckpt_path=None):
    """Run, or resume after the same checks as the program."""
    settings = ["callbacks.export=null", "callbacks.checkpoint.keep_last=-1", *overrides]
    cfg = tiny(photos, str(folder), *settings)
    run = build(cfg)
    if ckpt_path is not None:
        check_resume(cfg, ckpt_path, module=run.module, data=run.module.data_identity)
    run.trainer.fit(run.module, run.datamodule, ckpt_path=ckpt_path)
    return run


@pytest.fixture(scope="module")
def checkpoint(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fit(photos, folder, "optimizer.lr=1e-3")
    return newest_checkpoint(folder / "checkpoints")


def earlier(checkpoint: Path, folder: Path) -> Path:
    """Return the checkpoint as releases before the format number wrote it."""
    content = torch.load(checkpoint, weights_only=True)
    assert content.pop(KEY) == {"format": FORMAT, "data": content_identity(checkpoint)}
    torch.save(content, folder / checkpoint.name)
    return folder / checkpoint.name


def content_identity(checkpoint):
    return torch.load(checkpoint, weights_only=True)[KEY]["data"]


LONGER = ("trainer.max_steps=4", "optimizer.lr=1e-3")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=43"], r"seed 42 -> 43.*keep seed=42 .*resume.allow=\[seed\]"),
        (["loader.global_batch_size=8"], r"loader.global_batch_size 4 -> 8.*resume.allow=\[global_batch_size\]"),
        (["loader.num_negatives=2"], r"loader.num_negatives 4 -> 2.*resume.allow=\[data\]"),
        (["objective.igc=0.5"], r"objective.igc 0.1 -> 0.5.*resume.allow=\[objective\]"),
        (["+objective.terms.focal.gamma=1.0"], r"objective.focal 0 -> its default.*resume.allow=\[objective\]"),
        (["teacher.decay=0.5"], r"teacher.decay 0.9996 -> 0.5.*resume.allow=\[teacher\]"),
        (["teacher=none", "objective=clip"], r"teacher.*null.*resume.allow=\[teacher\]"),
        (["model.unlocked_image_groups=0"], r"model.unlocked_image_groups null -> 0.*resume.allow=\[freezing\]"),
        (["resume.allow=[sed]"], r"resume.allow: sed must be one of seed, data"),
        (["resume=last"], r"resume=last is not a setting: set ckpt_path=last"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_must_stay_is_refused(photos, tmp_path, checkpoint, overrides, message):
    with pytest.raises(ConfigError, match=message):
        fit(photos, tmp_path, *LONGER, *overrides, ckpt_path=checkpoint)


@pytest.mark.parametrize("duplicates", ["mask", "off"])
def test_another_treatment_of_duplicates_is_refused(photos, tmp_path, duplicates):
    other = {"mask": "off", "off": "mask"}[duplicates]
    key = "objective.terms.contrastive.duplicates"
    fit(photos, tmp_path / "before", f"{key}={other}")
    saved = newest_checkpoint(tmp_path / "before/checkpoints")
    with pytest.raises(ConfigError, match=rf"{key} {other} -> {duplicates}.*resume.allow=\[objective\]"):
        fit(photos, tmp_path / "now", f"{key}={duplicates}", ckpt_path=saved)


def test_another_model_is_one_sentence(photos, tmp_path, checkpoint):
    name = ["model.name=degla-scenes", "resume.allow=[model]"]
    with pytest.raises(CheckpointError, match=r"holds another model than model.name and model.pretrained describe"):
        fit(photos, tmp_path, *LONGER, *name, ckpt_path=checkpoint)


def test_other_data_are_refused(photos, tmp_path, checkpoint):
    copy = make_photo_folder(tmp_path / "copy")  # the same samples in another place
    fit(copy, tmp_path / "run", *LONGER, ckpt_path=checkpoint)
    lines = (copy / "captions.jsonl").read_text().splitlines()
    (copy / "captions.jsonl").write_text("\n".join([*lines, lines[0]]))
    with pytest.raises(ConfigError, match=r"24 samples then, 25 now.*resume.allow=\[data\]"):
        fit(copy, tmp_path / "run", *LONGER, ckpt_path=checkpoint)
    record = {**json.loads(lines[0]), "caption": "another caption"}
    (copy / "captions.jsonl").write_text("\n".join([json.dumps(record), *lines[1:]]))
    with pytest.raises(ConfigError, match="its 24 samples have other texts"):
        fit(copy, tmp_path / "run", *LONGER, ckpt_path=checkpoint)
    fit(copy, tmp_path / "run", *LONGER, "resume.allow=[data]", ckpt_path=checkpoint)


@pytest.mark.parametrize("is_earlier", [False, True], ids=["this release", "an earlier release"])
def test_what_may_change_is_applied_and_named(photos, tmp_path, checkpoint, caplog, is_earlier):
    if is_earlier:
        checkpoint = earlier(checkpoint, tmp_path)
    changes = ["trainer.max_steps=4", "optimizer.lr=5e-4", "optimizer.weight_decay=0.3", "loader.num_workers=1"]
    run = fit(photos, tmp_path, *changes, "scheduler=constant", ckpt_path=checkpoint)
    assert run.trainer.global_step == 4
    (optimizer,) = run.trainer.optimizers
    assert [group["lr"] for group in optimizer.param_groups] == [5e-4, 5e-4]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.3]
    for change in ("optimizer.lr 0.001 -> 0.0005", "trainer.max_steps 2 -> 4", "loader.num_workers 0 -> 1"):
        assert change in caplog.text


def test_nothing_is_logged_where_nothing_changed(photos, tmp_path, checkpoint, caplog):
    fit(photos, tmp_path, "optimizer.lr=1e-3", ckpt_path=checkpoint)
    assert "resuming with other settings" not in caplog.text


def test_an_earlier_checkpoint_is_still_checked(photos, tmp_path, checkpoint):
    with pytest.raises(ConfigError, match="seed 42 -> 43"):
        fit(photos, tmp_path, *LONGER, "seed=43", ckpt_path=earlier(checkpoint, tmp_path))


def test_resume_allow_permits_another_freezing_or_teacher(photos, tmp_path, checkpoint):
    frozen = fit(photos, tmp_path / "a", *LONGER, "model.unlocked_image_groups=0", "resume.allow=[freezing]",
                 ckpt_path=checkpoint)  # fmt: skip
    before = torch.load(checkpoint, weights_only=True)["state_dict"]
    after = frozen.module.state_dict()
    assert torch.equal(after["student.clip.visual.proj"], before["student.clip.visual.proj"])
    assert not torch.equal(after["student.clip.text_projection"], before["student.clip.text_projection"])
    without = fit(photos, tmp_path / "b", *LONGER, "teacher=none", "objective=clip",
                  "resume.allow=[teacher,objective]", ckpt_path=checkpoint)  # fmt: skip
    last = newest_checkpoint(tmp_path / "b/checkpoints")
    assert without.module.teacher is None and last.stem == "step-00000004"
    again = fit(photos, tmp_path / "c", "trainer.max_steps=5", "optimizer.lr=1e-3",
                "resume.allow=[teacher,objective,data]", ckpt_path=last)  # fmt: skip
    assert again.trainer.global_step == 5 and again.module.teacher is not None


def test_the_identity_of_data_is_that_of_its_texts(photos, checkpoint):
    data = build(tiny(photos, "unused")).datamodule.source
    assert list(identify_data(data)) == content_identity(checkpoint)


def test_a_resumed_stream_reads_from_the_position_in_its_checkpoint(photos, tmp_path, monkeypatch):
    """The weights are those of a run that was not stopped; two micro-batches of 4 rows make a step."""
    read = []
    blocks = SampleStream.blocks

    def counted(stream, seed, epoch, start=None):
        for block in blocks(stream, seed, epoch, start):
            if stream.shuffle_buffer == 4:  # the samples that are checked at the start are not shuffled
                read.append(epoch)
            yield block

    monkeypatch.setattr(SampleStream, "blocks", counted)
    lines = [json.loads(line) for line in (photos / "captions.jsonl").read_text().splitlines()]
    images = [{"bytes": (photos / line["image"]).read_bytes(), "path": None} for line in lines]
    columns = {key: [line[key] for line in lines] for key in ("caption", "negatives")}
    pq.write_table(pa.table({"image": images, **columns}), tmp_path / "0.parquet")
    settings = ["data=hub_stream", "data.path=parquet", f"data.data_files={tmp_path / '0.parquet'}",
                "data.shuffle_buffer=4", "loader.val_fraction=0", "optimizer.lr=1e-3",
                "trainer.accumulate_grad_batches=2"]  # fmt: skip
    settings += ["trainer.max_steps=5", "callbacks.checkpoint.every_n_steps=4"]
    whole = fit(photos, tmp_path / "whole", *settings)
    read.clear()
    resumed = fit(photos, tmp_path / "rest", *settings, ckpt_path=tmp_path / "whole/checkpoints/step-00000004.ckpt")
    after, expected = resumed.module.state_dict(), whole.module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in expected.items())
    assert len(lines) == 24 and set(read) == {1} and len(read) <= 6  # blocks of 4 rows; 32 rows came before
