"""The report is made from the files of a run alone."""

from degla.artifacts import read_metrics
from degla.report.run_report import bad_rows, changes, write_report
from degla.training.callbacks import MetricsCsv
from degla.training.console import print_summary


def a_run(folder):
    log = MetricsCsv(str(folder / "metrics.csv"))
    for step, value in ((0, 0.1), (5, 0.2), (5, 0.3)):  # step 5 twice, as after a resume
        log.log_metrics({"val/caption_choice": value, "val/image_to_text_r@10": 1 - value}, step)
    log.log_metrics({"train/loss": 2.0, "train/loss_igc": 0.5}, 1)
    (folder / "bad_rows.csv").write_text(
        "row,reason,skipped\na.csv:1,no such file: <b>.jpg,yes\na.csv:2,empty caption,yes\n"
    )
    (folder / "bad_rows.rank1.csv").write_text("row,reason,skipped\na.csv:3,no such file: c.jpg,yes\n")
    return folder


def test_first_and_last_value(tmp_path):
    rows = {row.name: (row.before, row.after) for row in changes(a_run(tmp_path))}
    assert rows == {"caption_choice": (0.1, 0.3), "image_to_text_r@10": (0.9, 0.7)}


def test_the_last_value_of_a_step_counts(tmp_path):
    assert read_metrics(a_run(tmp_path) / "metrics.csv")["val/caption_choice"] == {0: 0.1, 5: 0.3}


def test_bad_rows_of_all_processes(tmp_path):
    groups = bad_rows(a_run(tmp_path))
    assert [record["row"] for record in groups["no such file (skipped)"]] == ["a.csv:1", "a.csv:3"]


def test_page_and_console(tmp_path, capsys):
    page = write_report(a_run(tmp_path)).read_text()
    assert "+20.0" in page and "-20.0" in page and "a.csv:3" in page
    assert "<b>.jpg" not in page and "&lt;b&gt;.jpg" in page
    print_summary(tmp_path)
    output = capsys.readouterr().out
    assert "2 row(s): no such file (skipped), such as a.csv:1" in output and "tensorboard" not in output


def test_a_run_without_validation_or_metrics(tmp_path):
    assert changes(tmp_path) == [] and "Every sample was used" in write_report(tmp_path).read_text()


def test_the_page_opens_with_results_and_says_how_the_run_was_made(tmp_path):
    (a_run(tmp_path) / ".hydra").mkdir()
    (tmp_path / ".hydra/overrides.yaml").write_text("- data.path=my photos\n- seed=1\n")
    (tmp_path / "config.yaml").write_text("seed: 1")
    (tmp_path / "finished.json").write_text('{"steps": 5, "value": 0.3}')
    page = write_report(tmp_path).read_text()
    facts = [
        "10.0 → 30.0",
        "<b>5</b>optimizer steps",
        "</b>duration",
        "degla-train &#x27;data.path=my photos&#x27; seed=1",
    ]
    facts += [">commit<", ">open_clip_torch<", ">device<", ">Curves<"]
    places = [page.index(fact) for fact in facts]
    assert places == sorted(places)
    first = (tmp_path / "provenance.json").read_bytes()
    (tmp_path / "provenance.json").write_bytes(first.replace(b'"commit": "', b'"commit": "of-the-run-'))
    assert "of-the-run-" in write_report(tmp_path).read_text()  # written again elsewhere, it names the run's own


def test_curves_of_a_run_below_ten_steps(tmp_path):
    log = MetricsCsv(str(tmp_path / "metrics.csv"))
    log.log_metrics({"val/caption_choice": 0.5}, 0)
    page = write_report(tmp_path).read_text()
    assert "fewer steps than <code>trainer.log_every_n_steps" in page and page.count("data:image/png") == 1
    log.log_metrics({"train/loss": 0.7}, 2)
    page = write_report(tmp_path).read_text()
    assert "fewer steps" not in page and page.count("data:image/png") == 1


def test_half_a_line_is_neither_read_nor_added_to(tmp_path):
    path = tmp_path / "metrics.csv"
    MetricsCsv(str(path)).log_metrics({"train/loss": 1.0}, 0)
    with path.open("a") as file:
        file.write("1,train/loss,2")
    assert read_metrics(path) == {"train/loss": {0: 1.0}}
    MetricsCsv(str(path)).log_metrics({"train/loss": 3.0}, 1)
    assert read_metrics(path) == {"train/loss": {0: 1.0, 1: 3.0}}


def test_benchmark_before_and_after(tmp_path):
    log = MetricsCsv(str(tmp_path / "metrics.csv"))
    for step, value in ((0, 0.25), (3, 0.5), (6, 0.75)):
        log.log_metrics({"eval/aro/order": value, "eval/general/digits": 1 - value, "eval_mean/overall": 0.5}, step)
    rows = [tuple(row) for row in changes(tmp_path, "eval")]
    assert rows == [("aro/order", 0.25, 0.75), ("general/digits", 0.75, 0.25)]
    assert [tuple(row) for row in changes(tmp_path, "eval_mean")] == [("overall", 0.5, 0.5)]
    assert changes(tmp_path) == []
    page = write_report(tmp_path).read_text()
    assert "+50.0" in page and "-50.0" in page and page.count("data:image/png") == 1
    assert page.count("class=track") == 4 and "order, before" in page
    assert page.index("aro/order") < page.rindex("overall")
