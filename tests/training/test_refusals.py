"""Data without hard negatives is refused before the model is built."""

import json

import pytest
from hydra.utils import get_object

from degla.errors import ConfigError, DataError
from degla.training.build import build
from degla.training.callbacks import RunCheckpoint
from degla.training.refusals import count_negatives
from tests.configs.test_configs import tiny
from tests.conftest import make_photo_folder


def without_negatives(folder, num_without: int):
    file = make_photo_folder(folder) / "captions.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows[:num_without]:
        del row["negatives"]
    file.write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_captions_without_any_negatives_are_refused(tmp_path):
    photos = without_negatives(tmp_path / "photos", 24)
    with pytest.raises(DataError, match=r"none of the 24 samples .*degla-negatives .*objective=clip"):
        build(tiny(photos, str(tmp_path / "run")))
    build(tiny(photos, str(tmp_path / "run"), "objective=clip", "teacher=none"))
    build(tiny(photos, str(tmp_path / "run"), "loader.num_negatives=0", "objective.igc=0", "objective.tgc=0"))


@pytest.mark.parametrize(("num_without", "warns"), [(13, True), (11, False)])
def test_few_negatives_are_a_warning(tmp_path, caplog, num_without, warns):
    build(tiny(without_negatives(tmp_path / "photos", num_without), str(tmp_path / "run")))
    assert ("have hard negatives; the others train the global contrast only" in caplog.text) is warns


def test_a_stream_is_checked_at_its_beginning(hub_dataset, tmp_path):
    hub_dataset.remove_columns("negatives").to_parquet(tmp_path / "0.parquet")
    huggingface = get_object("degla.data.sources.huggingface")
    arguments = {"path": "parquet", "data_files": str(tmp_path / "0.parquet"), "streaming": True}
    assert count_negatives(huggingface(**arguments, negatives=None)) == (24, 0)
    hub_dataset.to_parquet(tmp_path / "0.parquet")
    assert count_negatives(huggingface(**arguments)) == (24, 24)


def test_the_checkpoint_interval_has_a_bound(tmp_path):
    with pytest.raises(ConfigError, match=r"callbacks\.checkpoint\.every_n_steps=-1 must be a whole number of 1 or"):
        RunCheckpoint(str(tmp_path), every_n_steps=-1)
