"""The choice of rates, the intervals, the page, and the committed study drawn again."""

import base64
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from degla.report.study_record import StudyRun, chosen_runs, mean_and_interval, study_record
from degla.report.study_report import print_study, write_study

COMMITTED = Path(__file__).parents[2] / "docs" / "study"


def run(method, lr, seed, overall):
    return StudyRun(method, lr, seed, Path("x"), {"overall": overall, "compositional": overall, "general": overall}, 60)


def test_the_rate_is_chosen_by_the_mean_over_seeds_on_validation():
    runs = [run("a", 1e-3, 0, 0.9), run("a", 1e-3, 1, 0.1), run("a", 1e-4, 0, 0.6), run("a", 1e-4, 1, 0.6),
            run("b", 1e-3, 0, 0.3), run("b", 1e-4, 0, 0.2)]  # fmt: skip
    assert [(r.method, r.lr, r.seed) for r in chosen_runs(runs)] == [("a", 1e-4, 0), ("a", 1e-4, 1), ("b", 1e-3, 0)]


def test_interval_by_hand():
    """1, 2, 3: mean 2, s 1, t 4.30 with two degrees of freedom, so 4.30 / sqrt(3)."""
    mean, half = mean_and_interval([1.0, 2.0, 3.0])
    assert mean == 2 and half == pytest.approx(4.30 / math.sqrt(3))
    assert math.isnan(mean_and_interval([1.0])[1])


def test_tables_show_the_record(tmp_path, capsys):
    names = ["sugarcrepe/swap_obj", "aro/order", "general/digits", "sugarcrepe", "aro", "valse", "compositional",
             "compositional_without_order", "general"]  # fmt: skip
    runs = [run("degla", 1e-3, seed, 0.5 + seed / 10) for seed in (0, 1)] + [run("degla", 1e-4, 0, 0.2)]
    scores = [[dict.fromkeys(names, value) for value in values] for values in ((0.3, 0.6), (0.4, 0.8), (0.7,))]
    tuned = [(runs[0], [0.5, 1.0]), (runs[1], [0.5, 1.0]), (runs[2], [1.0])]
    record = json.loads(json.dumps(study_record(runs, tuned, dict.fromkeys(names, 0.1), scores)))
    write_study(record, tmp_path)
    print_study(record, tmp_path)
    output = capsys.readouterr().out
    assert "study.json" not in output and str(tmp_path / "study.md") in output  # only files that were written
    assert str(tmp_path / "study.html") in output
    text = (tmp_path / "study.md").read_text()
    assert "| before fine-tuning |  | 10.0 |" in text
    assert "| degla | 0.001 | 70.0 ± 127.1 |" in text and "70.0 ± 127.1" in output
    assert "| degla | 20.0 / 20.0 | **55.0 / 55.0** |" in text  # validation
    assert "| degla | 70.0 / 70.0 | **70.0 / 70.0** |" in text  # test at every rate
    assert "| sugarcrepe/swap_obj | 10 | 70 |" in text
    assert Image.open(tmp_path / "front.png").size[0] > 1000


def test_a_study_with_one_seed_has_no_interval(tmp_path):
    names = [
        "sugarcrepe/swap_obj",
        "sugarcrepe",
        "aro",
        "valse",
        "compositional",
        "compositional_without_order",
        "general",
    ]
    runs = [run(method, 1e-3, 0, 0.5) for method in ("clip", "degla")]
    tuned, scores = [(one, [1.0]) for one in runs], [[dict.fromkeys(names, value)] for value in (0.5, 0.6)]
    write_study(study_record(runs, tuned, dict.fromkeys(names, 0.1), scores), tmp_path)
    page = (tmp_path / "study.html").read_text()
    assert "<b>60.0 %</b>compositional, degla" in page and "± nan" not in page + (tmp_path / "study.md").read_text()
    assert "| clip | +10.0 | +10.0 | +10.0 |" in (tmp_path / "study.md").read_text()
    assert "<dl>" not in page  # this record does not say how it was made


def test_the_committed_study_is_drawn_from_its_record(tmp_path):
    record = json.loads((COMMITTED / "study.json").read_text())
    write_study(record, tmp_path)
    assert (tmp_path / "study.md").read_text() == (COMMITTED / "study.md").read_text()
    page = (tmp_path / "study.html").read_text()
    assert 'src="http' not in page and 'href="http' not in page  # nothing is loaded from the network
    parts = ["<b>69.9 %</b>compositional before fine-tuning", "<b>72.3 ± 0.6 %</b>compositional, degla",
             "<b>99</b>runs of 11 methods",
             "<td>negclip</td><td>0.00025</td><td>81.7 ± 0.8</td>", "<tr class=aside><td>degla_no_igc</td>",
             "<dt>commit</dt><dd>aa73e59</dd>", "<dt>torch</dt>", "<dt>machine</dt>"]  # fmt: skip
    assert [page.find(part) for part in parts] == sorted(page.find(part) for part in parts) and parts[0] in page
    images = re.findall(r"data:image/png;base64,([^\"]+)", page)
    names = ("front.png", "subtasks.png")
    assert [base64.b64decode(image) for image in images] == [(tmp_path / name).read_bytes() for name in names]
    for name in names:
        mine, committed = (np.asarray(Image.open(f / name).convert("L"), float) for f in (tmp_path, COMMITTED))
        assert mine.shape == committed.shape
        assert (abs(mine - committed) > 64).mean() < 0.01  # fonts differ a little between versions of Matplotlib
