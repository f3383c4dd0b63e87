"""The summary of a cross-validation is made from the folders of its runs alone."""

import json
import math
from pathlib import Path

import pytest
import yaml

from degla.report.folds import estimate, fold_rows, print_folds, write_folds
from degla.report.text_only import TextOnlyRecord, TextOnlyScore, write_text_only
from degla.training.callbacks import MetricsCsv


def a_run(
    folder: Path, fold: int, before: float, after: float, *settings: str, pretrained: str | None = "openai"
) -> None:
    (folder / ".hydra").mkdir(parents=True)
    overrides = [f"loader.fold={fold}", "experiment=flickr8k", *settings]
    (folder / ".hydra/overrides.yaml").write_text(yaml.safe_dump(overrides))
    config = {"model": {"name": "ViT-B-32", "pretrained": pretrained}, "loader": {"num_folds": 5, "fold": fold}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    log = MetricsCsv(str(folder / "metrics.csv"))
    for step, value in ((0, before), (7, after)):
        log.log_metrics({"val/caption_choice/swap_nouns": value, "val/image_to_text_r@1": value / 2}, step)
    score = TextOnlyScore(accuracy=0.6, count=100 + fold)
    write_text_only(folder, TextOnlyRecord(scores={"caption_choice/swap_nouns": score}))
    (folder / "finished.json").write_text(json.dumps({"steps": 7, "value": after}))


def test_the_interval_is_students():
    assert str(estimate([0.1, 0.2, 0.3, 0.4, 0.5])) == "30.0 ± 19.6"  # 2.776 * 0.1581 / sqrt(5)
    assert estimate([0.5, 0.5]).half == 0
    assert str(estimate([0.5])) == "50.0" and math.isnan(estimate([0.5]).half)
    assert str(estimate([0.5, None])) == "" == str(estimate([]))


def test_folds_are_gathered_in_their_order_and_by_settings(tmp_path, capsys):
    for fold in (2, 0, 1):
        a_run(tmp_path / f"a{fold}", fold, 0.5, 0.6 + fold / 10)
    a_run(tmp_path / "b", 0, 0.5, 0.25, "objective=<b>", pretrained=None)
    a_run(tmp_path / "c", 3, 0.5, 0.9)
    (tmp_path / "c/finished.json").unlink()  # it has not ended
    groups = write_folds(tmp_path)
    first, second = groups
    assert (first.folds, first.num_folds, first.steps) == ([0, 1, 2], 5, [7, 7, 7])
    assert first.scores["caption_choice/swap_nouns"].after == pytest.approx([0.6, 0.7, 0.8])
    assert first.settings == ["experiment=flickr8k"] and second.settings == ["experiment=flickr8k", "objective=<b>"]
    assert fold_rows(first) == [
        ["caption_choice/swap_nouns", "303", "60.0 ± 0.0", "50.0 ± 0.0", "70.0 ± 24.8", "+20.0 ± 24.8"],
        ["image_to_text_r@1", "", "", "25.0 ± 0.0", "35.0 ± 12.4", "+10.0 ± 12.4"],
    ]
    assert fold_rows(second)[0][-1] == "-25.0"
    record = json.loads((tmp_path / "folds.json").read_text())
    assert [group["folds"] for group in record["groups"]] == [[0, 1, 2], [0]]
    page = (tmp_path / "folds.html").read_text()
    places = [page.index(text) for text in (">commit<", "3 of 5 folds", "1 of 5 folds", "objective=&lt;b&gt;",
                                            "started from random weights", "Student")]  # fmt: skip
    assert places == sorted(places) and page.count("random weights:") == 1
    print_folds(groups, tmp_path)
    output = capsys.readouterr().out
    assert "caption_choice/swap_nouns" in output and str(tmp_path / "folds.html") in output
    assert " ".join(output.split()).count("say nothing about a method") == 1


def test_nothing_is_written_where_no_run_has_finished(tmp_path):
    assert write_folds(tmp_path) == [] and not list(tmp_path.iterdir())
