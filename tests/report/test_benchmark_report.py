"""Tables, published numbers, and the page of disagreements in a real browser."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from statistics import fmean

import pytest

from degla.errors import ConfigError
from degla.evaluation import Result
from degla.evaluation.items import ImageRef, Outcome
from degla.evaluation.statistics import score_table
from degla.evaluation.tasks.sugarcrepe import SugarCrepe
from degla.report.benchmark_report import print_tables, write_report
from degla.report.benchmark_results import protocol_differences, read_results, write_results
from degla.report.benchmark_tables import benchmark_tables, published
from tests.helpers.benchmarks import sugarcrepe, write_image


def evaluation(folder: Path, label: str, rights: dict[str, list[bool]], protocol=None):
    task = SugarCrepe(annotations=str(folder.parent / "sugarcrepe"), subsets=list(rights))
    found = [
        Outcome(s, str(i), right, False, 0.1 if right else -0.1, 0.5, f"{i % 4:012d}.jpg", f"true <{i}>", f"false {i}")
        for s, values in rights.items()
        for i, right in enumerate(values)
    ]
    result = Result(found, [outcome._replace(correct=False) for outcome in found], [], [])
    protocol = protocol or {"ties": "lost", "precision": "32"}
    scored = score_table(task, found, result.no_image)
    benchmarks = {"sugarcrepe": {**scored, "protocol": protocol, "fingerprint": "f", "num_left_out": 0, "problems": []}}
    write_results(
        folder,
        label,
        {"name": "x"},
        benchmarks,
        {"sugarcrepe": result},
        1.0,
        {"images": 4},
        command="degla-evaluate benchmark=sugarcrepe",
    )
    return read_results(folder)


@pytest.fixture
def two(tmp_path):
    sugarcrepe(tmp_path, ["swap_obj", "swap_att"])
    base = evaluation(tmp_path / "base", "base", {"swap_obj": [i < 40 for i in range(80)], "swap_att": [True] * 80})
    other = evaluation(
        tmp_path / "other", "other", {"swap_obj": [i < 70 for i in range(80)], "swap_att": [i > 0 for i in range(80)]}
    )
    return base, other


def test_results_come_back(two):
    assert two[0].label == "base" and len(two[0].outcomes("sugarcrepe")) == 160
    assert two[1].record["made"]["torch"] and two[1].record["format"] == 2
    assert two[0].outcomes("sugarcrepe")[0].caption == "true <0>"
    with pytest.raises(ConfigError, match=r"there is no nowhere/results\.json"):
        read_results(Path("nowhere"))


def test_table_in_the_papers_layout(two, capsys, tmp_path):
    (table,) = benchmark_tables(two)
    assert table.heads == ["swap_obj", "swap_att", "swap avg.", "avg."]
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["DeGLA (degla)"][:3] == ["81.6", "82.1", "81.9"]
    assert rows["CLIP (degla)"][:3] == ["61.4", "64.0", "62.7"]  # not as printed in the paper
    assert rows["base"][0].startswith("50.0 ±") and rows["  without images"][0] == "0.0"
    assert rows["  minus base"][:3] == ["+37.5*", "-1.2", "+18.1"]
    assert any("order average, object, attribute" in note for note in table.notes)
    print_tables([table], tmp_path)
    assert "other" in capsys.readouterr().out


def test_published_columns_stay_where_a_subset_has_no_answers(tmp_path):
    sugarcrepe(tmp_path, ["swap_obj", "swap_att"])
    protocol = {"ties": "lost", "precision": "32", "subsets": ["swap_obj", "swap_att"]}
    half = evaluation(tmp_path / "half", "half", {"swap_obj": [True] * 80}, protocol)
    half.benchmarks["sugarcrepe"]["means"] = {}  # no means without answers to swap_att
    (table,) = benchmark_tables([half])
    rows = {row[0]: dict(zip(table.heads, row[1:], strict=True)) for row in table.rows}
    assert rows["DeGLA (degla)"]["swap_att"] == "82.1" and rows["DeGLA (degla)"]["swap avg."] == "81.9"
    assert rows["half"]["swap_obj"].startswith("100.0") and rows["half"]["swap_att"] == rows["half"]["avg."] == ""


def test_results_of_other_rules_get_a_note(two, tmp_path):
    assert protocol_differences(two, "sugarcrepe") == []
    odd = evaluation(tmp_path / "odd", "odd", {"swap_obj": [True] * 3}, {"ties": "original", "precision": "32"})
    (sentence,) = protocol_differences([*two, odd], "sugarcrepe")
    assert 'base and odd were not measured alike: ties: "lost" against "original"' in sentence
    assert sentence in benchmark_tables([*two, odd])[0].notes


def test_published_averages_recompute_from_their_own_columns():
    rows = published()["rows"]

    def values(benchmark, model, source="degla"):
        return dict(zip(rows[benchmark]["columns"], rows[benchmark][source][model], strict=True))

    for model in rows["aro"]["degla"]:
        row = values("aro", model)
        if row["mean:average"] is not None:
            columns = [row[c] for c in ("relation", "attribution", "coco_order", "flickr30k_order")]
            assert fmean(columns) == pytest.approx(row["mean:average"], abs=0.06), model
    for model in rows["zeroshot"]["degla"]:
        *columns, average = values("zeroshot", model).values()
        assert fmean(columns) == pytest.approx(average, abs=0.06), model
    for model in rows["sugarcrepe"]["degla"]:
        row = values("sugarcrepe", model)
        for family, parts in (("replace", ("obj", "att", "rel")), ("swap", ("obj", "att")), ("add", ("obj", "att"))):
            columns = [row[f"{family}_{part}"] for part in parts]
            off = 0.17 if (model, family) == ("CLIP", "replace") else 0.07  # a misprint, said under the table
            assert fmean(columns) == pytest.approx(row[f"mean:{family}"], abs=off), (model, family)
    for model in rows["valse"]["degla"]:
        *columns, average = values("valse", model).values()
        assert (sum(columns) + 2 * columns[2]) / 11 == pytest.approx(average, abs=0.1), model  # counting is three files
        if model == "DeGLA":
            assert abs(fmean(columns) - average) > 1  # and not one
    for benchmark, known in rows.items():
        for source in set(known) - {"columns", "correction"}:
            assert source in published()["sources"]
            assert all(len(row) == len(known["columns"]) for row in known[source].values()), benchmark


def test_the_page_of_methods_has_the_published_numbers():
    """Tables 6 and 7 of the paper, and the means of the others."""
    page = (Path(__file__).parents[2] / "docs/methods.md").read_text(encoding="utf-8")
    for terms, numbers in published()["ablation"]["degla"].items():
        assert f"| {terms} | {numbers[0]} | {numbers[1]} |" in page
    rows = published()["rows"]
    probe = rows["linear_probe"]["degla"]
    assert ", ".join(f"{model} {value}" for model, (value,) in probe.items()) in page.replace("\n", " ")
    assert rows["aro"]["degla"]["DeGLA"][-1] == published()["ablation"]["degla"]["+ IGC + TGC + distillation"][0]
    for source, paper in (("degla", "DeGLA's paper"), ("peers", "FSC-CLIP and READ-CLIP")):
        for model in ("CLIP", "NegCLIP", "CE-CLIP"):
            means = [rows[name][source][model][-1] for name in ("valse", "aro")]
            assert re.search(rf"\| {model} \|[^|]*\| {means[0]} \| {means[1]} \|[^|]*\|[^|]*\| {paper} \|", page), model


@pytest.fixture
def page(two, tmp_path):
    images = {}
    for i in range(4):
        write_image(tmp_path / f"{i:012d}.jpg")
        images[f"{i:012d}.jpg"] = ImageRef(str(tmp_path / f"{i:012d}.jpg"))
    del images["000000000003.jpg"]
    write_report(two, benchmark_tables(two), tmp_path / "out", images, explorer_items=20)
    return tmp_path / "out" / "explorer.html"


def test_report_files(page):
    names = {path.name for path in page.parent.iterdir()}
    assert names == {"report.md", "report.html", "bars.png", "explorer.html"}
    assert "| other |" in (page.parent / "report.md").read_text()
    assert "explorer.html" in (page.parent / "report.html").read_text()
    text = page.read_text()
    data = json.loads(re.search(r"const DATA = (.*);\n", text).group(1))
    assert len(data["items"]) == 20 and data["counts"] == [
        ["sugarcrepe/swap_att", "lost", 1],
        ["sugarcrepe/swap_obj", "gained", 30],
    ]
    assert 'src="http' not in text and "<0>" not in text


def test_the_report_opens_with_the_headline_and_says_how_it_was_made(page):
    text = (page.parent / "report.html").read_text()
    head, _, rest = text.partition("Averages, percent")
    assert "sugarcrepe, average" in head and "other against base" in head
    for name in ("command", "commit", "torch", "machine", "duration", "compared with base"):
        assert f"<dt>{name}</dt>" in head, name
    assert "degla-evaluate benchmark=sugarcrepe" in head
    assert rest.count("class=track") == 6 and rest.count("<u ") == 6  # three means, two models, each with its interval
    assert "Samples most gained" in rest and "Samples most lost" in rest
    assert "base: a wrong answer scores higher by 0.1000" in rest
    assert "other: the correct answer scores higher by 0.1000" in rest


def test_one_row_a_subset_and_nothing_from_the_network(page):
    text = (page.parent / "report.html").read_text()
    rows = re.findall(r"<tr><td>(swap_obj|swap_att|swap avg\.|avg\.)</td>", text)
    assert rows == ["swap_obj", "swap_att", "swap avg.", "avg."] * 2  # measured, then published
    assert not re.search(r'(src|href)="(?!data:|explorer\.html)', text) and "url(" not in text and "@import" not in text
    assert "prefers-color-scheme:dark" in text and 'name="viewport"' in text
    assert "&lt;" in text and "true <" not in text  # captions are text


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (Debian: apt install chromium)")
@pytest.mark.parametrize(
    ("state", "shown", "kinds"),
    [
        ("", 20, {"gained", "lost"}),
        ("#kind=lost", 1, {"lost"}),
        ("#subset=sugarcrepe/swap_obj", 19, {"gained"}),
        ("#subset=sugarcrepe/swap_obj&kind=lost", 0, set()),
        ("#words=false+45", 1, {"gained"}),
        ("#sort=worst", 20, {"gained", "lost"}),
    ],
)
def test_filters_in_a_real_browser(page, tmp_path, state, shown, kinds):
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [CHROMIUM, *flags, "--dump-dom", f"file://{page}{state}"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    articles = re.findall(r'<article class="(\w+)">', dom)
    assert len(articles) == shown and set(articles) == kinds
    assert f"{shown} shown of 20 here, 31 in all" in html.unescape(dom)
    if "sort=worst" in state:
        assert articles[0] == "lost"  # the only one with a negative margin
    if shown == 20:
        assert dom.count("data:image/jpeg;base64,") > 10 and "no image" in dom
        assert "true &lt;0&gt;" in dom  # text, not markup
