"""The record of a study, its tables, page and plots, and the committed study drawn again."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from degla.errors import ConfigError
from degla.report.study_plots import panels_of
from degla.report.study_record import read_record, write_record
from degla.report.study_report import print_study, write_study
from degla.report.study_tables import (
    candidates_table,
    hypervolume_table,
    notices,
    paired_table,
    retention_table,
    study_tables,
    subtasks_table,
)
from tests.helpers.study import SUBTASKS, random_record, record, run
from tests.test_docs import load_script

COMMITTED = Path(__file__).parents[2] / "docs" / "study"


def two_methods():
    """Plain CLIP never beats the base; DeGLA has one setting for 99 % and one for 95 %. Two seeds each."""
    runs = []
    for seed, shift in enumerate((-0.01, 0.01)):
        low, high = (0.895, 0.75 + shift), (0.86, 0.8)
        runs.append(run("degla", 1e-4, seed, {1.0: low}, {1.0: (0.88 + shift / 2, 0.76 + shift)}))
        runs.append(run("degla", 1e-3, seed, {1.0: high}, {1.0: (0.85, 0.81 + shift)}))
        runs += [run("clip", lr, seed, {1.0: (0.88, 0.6)}, minutes=None) for lr in (1e-4, 1e-3)]
    return record(runs)


def test_tables_by_hand():
    """Two seeds: t 12.706, so 0.76 +- 0.01 has the interval 12.706 * 0.01 * sqrt(2) / sqrt(2)."""
    study = two_methods()
    table = retention_table(study)
    assert table.heads == ["method", "at 99 %", "kept", "at 97 %", "kept", "at 95 %", "kept"]
    base = ["70.0", "90.0 (100.0)"]
    low, high = ["76.0 ± 12.7", "88.0 (97.8)"], ["81.0 ± 12.7", "85.0 (94.4)"]
    clip = ["70.0 (base)", "90.0 (100.0)"]
    assert table.rows == [["base model", *base * 3], ["clip", *clip * 3], ["degla", *low, *low, *high]]
    assert candidates_table(study).rows[1] == ["degla", *["lr=0.0001, share 1"] * 2, "lr=0.001, share 1"]
    # The corner is (81, 70): seed 0 has 6.5 * 5 + the step to 10 over 4, seed 1 has 7.5 * 7 + 5 * 4 over 4.
    areas = [6.5 * 5 + 4 * 5, 7.5 * 7 + 4 * 5]
    text = f"{sum(areas) / 2:.1f} ± {12.706205 * (areas[1] - areas[0]) / 2:.1f}"
    assert hypervolume_table(study).rows[1][:3] == ["degla", text, "3"]
    assert hypervolume_table(study).rows[1][3:] == ["2", "2", "4", "8"]
    assert hypervolume_table(study).rows[0] == ["clip", "0.0 ± 0.0", "1", "2", "2", "4", "not known"]
    assert paired_table(study).rows == [["clip", "+6.0 ± 12.7", "+6.0 ± 12.7", "+11.0 ± 12.7",
                                         f"+{text}", "2"]]  # fmt: skip
    assert subtasks_table(study).rows[0] == [SUBTASKS[0], "70.0", "70.0", "76.0"]


def test_the_page_the_markdown_and_the_console_show_the_record(tmp_path, capsys):
    study = random_record(reference="degla")
    write_study(study, tmp_path)
    print_study(study, tmp_path)
    output = capsys.readouterr().out
    assert "study.json" not in output and str(tmp_path / "study.md") in output  # only files that were written
    text, page = ((tmp_path / name).read_text() for name in ("study.md", "study.html"))
    for table in study_tables(study):
        assert f"## {table.title}\n\n{table.note}\n\n{table.markdown()}\n" in text
        assert all(f"<td>{cell}</td>" in page for row in table.rows for cell in row)
    assert text.index("At fixed retention") < text.index("Hypervolume and budget") < text.index("Paired differences")
    assert all(cell in output for row in retention_table(study).rows for cell in row)
    assert 'src="http' not in page and "<dt>commit</dt><dd>abc1234</dd>" in page
    images = [base64.b64decode(image) for image in re.findall(r"data:image/png;base64,([^\"]+)", page)]
    assert images == [(tmp_path / name).read_bytes() for name in ("fronts.png", "subtasks.png")]


def test_a_record_read_again_gives_the_same_bytes(tmp_path):
    study = random_record(("degla", "clip"))
    write_record(study, tmp_path / "study.json")
    again = read_record(tmp_path / "study.json")
    assert again == study
    for name, one in (("first", study), ("second", again)):
        write_study(one, tmp_path / name)
        write_record(one, tmp_path / name / "study.json")
    files = {path.name for path in (tmp_path / "first").iterdir()}
    assert files == {"study.json", "study.md", "study.html", "fronts.png", "subtasks.png"}
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_panels_leave_out_missing_methods_and_show_all_others():
    methods = ["degla", "clip", *(f"m{number}" for number in range(6))]
    study = random_record(methods, seeds=range(2), panels={"One?": ["clip", "absent", "degla"], "None?": ["absent"]})
    assert panels_of(study) == {
        "One?": ["clip", "degla"],
        "Others": ["m0", "m1", "m2", "m3", "m4"],
        "Others, 2": ["m5"],
    }
    assert [row[0] for row in retention_table(study).rows[1:4]] == ["clip", "degla", "m0"]


def test_one_seed_has_no_intervals_and_says_so(tmp_path, capsys):
    study = random_record(("degla", "clip"), seeds=[3])
    write_study(study, tmp_path)
    print_study(study, tmp_path)
    page, text = ((tmp_path / name).read_text() for name in ("study.html", "study.md"))
    for output in (re.sub('base64,[^"]+', "", page), text, capsys.readouterr().out):
        assert "nan" not in output and "±" not in output and "there is one seed only" in " ".join(output.split())


def test_settings_without_all_seeds_are_named():
    runs = [run("a", 1e-3, seed, {1.0: (0.9, 0.75)}, {1.0: (0.9, 0.75)}) for seed in (0, 1)]
    study = record([*runs, run("a", 1e-4, 0, {1.0: (0.9, 0.9)})])
    assert notices(study) == [
        "Settings of a that have fewer seeds than others, and so are no candidates: lr=0.0001 (1)."
    ]
    assert hypervolume_table(study).rows[0][3:6] == ["2", "1", "3"]  # settings, candidates, runs


def test_methods_without_a_common_seed_have_no_paired_difference():
    points = {1.0: (0.9, 0.75)}
    study = record([run("a", 1e-3, 0, points, points), run("b", 1e-3, 1, points, points)])
    assert paired_table(study).rows == [["b", *["no common seed"] * 4, "0"]]


def broken(change):
    content = json.loads(random_record(seeds=range(2)).model_dump_json())
    change(content)
    return content


HOSTILE = {
    "not a mapping": ([], "model_type|valid dict|dictionary"),
    "a score above 1": (broken(lambda c: c["base"]["test"].update(metric=1.5)), "base.test.metric"),
    "an unknown field": (broken(lambda c: c.update(more=1)), "more"),
    "another format": (broken(lambda c: c.update(format=3)), "format"),
    "no runs": (broken(lambda c: c.update(runs=[])), "runs"),
    "no metric": (
        broken(lambda c: c["runs"][0]["validation"][0]["scores"].pop("metric")),
        "the score metric is missing",
    ),
    "no sub-task": (broken(lambda c: c["base"]["test"].pop("aro/order")), "the score aro/order is missing"),
    "a run twice": (broken(lambda c: c["runs"].append(c["runs"][0])), "is in it twice"),
    "a seed twice": (broken(lambda c: c["runs"].append({**c["runs"][0], "run": "x"})), "two runs have the same method"),
    "a share too few": (broken(lambda c: c["runs"][0]["validation"].pop()), "is not measured at every share"),
    "no test scores": (broken(lambda c: [one.update(test=[]) for one in c["runs"]]), "has no test scores at"),
    "a reference that is no method": (broken(lambda c: c.update(reference="x")), "reference x is not a method"),
    "another choice": (broken(lambda c: c["chosen"]["degla"][2].update(share=0, setting="")), "the choice of degla"),
    "another area": (broken(lambda c: c["hypervolume"]["degla"].update({"0": 0.5})), "the hypervolume of degla"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_record_that_contradicts_itself_is_refused_in_one_sentence(case, tmp_path):
    content, reason = HOSTILE[case]
    (tmp_path / "study.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=reason) as refused:
        read_record(tmp_path / "study.json")
    assert str(refused.value).startswith("replot=") and "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"format": NaN}', "null"])
def test_files_that_are_no_records_are_refused(text, tmp_path):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(ConfigError, match=r"is not the study\.json of an earlier study"):
        read_record(tmp_path / "study.json")


def test_a_record_of_format_1_is_refused_with_its_commit(tmp_path):
    (tmp_path / "study.json").write_text(json.dumps({"provenance": {"commit": "aa73e59"}, "start": {}, "methods": {}}))
    with pytest.raises(ConfigError, match=r"is of format 1, .* degla at commit aa73e59, or measure its runs again"):
        read_record(tmp_path / "study.json")


def test_the_tables_of_the_docs_are_made_from_the_record(tmp_path, monkeypatch):
    study, tables = random_record(("degla", "clip")), load_script("tables")
    study = study.model_copy(update={"provenance": {"command": "degla-study", "commit": "abc1234", "python": "3.11",
                                                    "machine": "x86_64", "benchmarks": {}}})  # fmt: skip
    write_record(study, tmp_path / "study.json")
    monkeypatch.setattr(tables, "STUDY", tmp_path / "study.json")
    for table, name in zip(
        study_tables(study), ("retention", "candidates", "hypervolume", "paired", "subtasks"), strict=True
    ):
        text = tables.fill(f"<!-- table:study_{name} -->\nold\n<!-- /table -->")
        assert table.note in text and table.markdown() in text and "`degla-study` at commit abc1234" in text


def test_the_committed_study_is_drawn_from_its_record(tmp_path):
    if "format" not in json.loads((COMMITTED / "study.json").read_text()):
        pytest.skip("the committed study is of format 1")
    study = read_record(COMMITTED / "study.json")
    write_study(study, tmp_path)
    assert (tmp_path / "study.md").read_text() == (COMMITTED / "study.md").read_text()
    for name in ("fronts.png", "subtasks.png"):
        mine, committed = (np.asarray(Image.open(f / name).convert("L"), float) for f in (tmp_path, COMMITTED))
        assert mine.shape == committed.shape
        assert (abs(mine - committed) > 64).mean() < 0.01  # fonts differ a little between versions of Matplotlib
