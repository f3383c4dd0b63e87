"""The summary of a sweep is made from the folders of its jobs alone."""

import json

from degla.report.sweep_report import print_sweep, write_sweep
from tests.conftest import read_csv


def a_job(folder, overrides, value):
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/overrides.yaml").write_text("".join(f"- {override}\n" for override in overrides))
    (folder / "config.yaml").write_text("seed: 1")
    if value is not None:
        (folder / "finished.json").write_text(json.dumps({"steps": 7, "value": value}))


def test_page_table_and_plot(tmp_path, capsys):
    for number, (rate, value) in enumerate((("1e-3", 0.25), ("1e-4", 0.75), ("1e-5", None))):
        a_job(tmp_path / str(number), [f"optimizer.lr={rate}", "seed=1", "objective=<b>"], value)
    jobs = write_sweep(tmp_path)
    assert [job.folder for job in jobs] == ["1", "0", "2"]
    assert [row["optimizer.lr"] for row in read_csv(tmp_path / "sweep.csv")] == ["1e-4", "1e-3", "1e-5"]
    page = (tmp_path / "sweep.html").read_text()
    places = [page.index(text) for text in ("best value, optimizer.lr=1e-4", "2 of 3", "degla-train optimizer.lr=1e-4",
                                            ">commit<", ">device<", "1e-5", "data:image/png")]  # fmt: skip
    assert places == sorted(places) and "<b>0.7500</b>" in page and "objective=&lt;b&gt;" not in page.split("Jobs")[1]
    print_sweep(jobs, tmp_path)
    output = capsys.readouterr().out
    assert "0.7500" in output and str(tmp_path / "sweep.html") in output


def test_nothing_is_written_where_no_job_ran(tmp_path):
    assert write_sweep(tmp_path) == [] and not list(tmp_path.iterdir())


def test_a_sweep_in_which_no_job_has_finished(tmp_path):
    a_job(tmp_path / "0", ["seed=1"], None)
    a_job(tmp_path / "1", ["seed=2"], None)
    write_sweep(tmp_path)
    assert "0 of 2" in (tmp_path / "sweep.html").read_text()
