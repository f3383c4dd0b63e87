"""Files of captions: one bad row is a problem of that row, and a file of another form is one sentence."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from degla.errors import DeglaError
from degla.hard_negatives.captions import read_captions

DEEP = "[" * 100_000 + "]" * 100_000


def rows(path, content, **columns):
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return list(read_captions(str(path), **columns))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("  ", "empty caption"),
        (None, "empty caption"),
        (["a dog", "a cat"], "the caption is a list of 2, not a text"),
        ({"raw": "a dog"}, "the caption is"),
        (5, "the caption is the value 5, not a text"),
        ("a \ud800 dog", "caption with characters that are not valid Unicode"),
        ("dog " * 2000, "caption of more than 5000 characters"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_bad_caption_is_a_problem_of_its_row(tmp_path, value, problem, suffix):
    records = [{"image": "1.jpg", "caption": "A dog"}, {"image": "2.jpg", "caption": value}, {"caption": "A cat"}]
    text = "\n".join(map(json.dumps, records)) if suffix == ".jsonl" else json.dumps(records)
    first, bad, last = rows(tmp_path / f"c{suffix}", text)
    assert first.caption == "A dog" and last.caption == "A cat" and not first.problem and not last.problem
    assert bad.problem.startswith(problem) and bad.caption == ""


def test_bytes_that_are_not_utf8_make_one_row_unusable(tmp_path):
    first, bad, last = rows(tmp_path / "c.txt", b"A dog\nA c\xe4t\nA bird\n")
    assert (first.caption, last.caption) == ("A dog", "A bird") and "not valid Unicode" in bad.problem


def test_unquoted_comma_is_a_problem_of_its_row(tmp_path):
    first, bad, last = rows(tmp_path / "c.txt", "image,caption\n1.jpg,A dog\n2.jpg,A cat, black\n3.jpg,A bird\n")
    assert (first.caption, last.caption) == ("A dog", "A bird") and "does not have 2 fields" in bad.problem


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.json", "{", "c.json cannot be read as JSON"),
        ("c.json", DEEP, "c.json cannot be read as JSON"),
        ("c.json", b"\xff\xfe\x00", "c.json cannot be read as JSON"),
        ("c.json", '"text"', "is neither COCO's captions nor a list of objects"),
        ("c.json", '{"annotations": {}}', "is neither COCO's captions nor a list of objects"),
        ("c.txt", "image,caption\n1.jpg," + "x" * 200_000, "cannot be read as CSV at line"),
    ],
)
def test_damaged_file_is_one_sentence(tmp_path, name, content, message):
    with pytest.raises(DeglaError, match=message):
        rows(tmp_path / name, content)


def test_damaged_items_of_the_authors_and_of_coco(tmp_path):
    items = [{"original": "A dog", "image_id": 9, "enhanced": ["A cat"]}, {"original": "A", "image_id": None}, 5, DEEP]
    good, *bad = rows(tmp_path / "a.json", json.dumps(items))
    assert good.image == "COCO_train2014_000000000009.jpg" and good.negatives[0].text == "A cat"
    assert all(row.problem for row in bad)
    coco = {"annotations": [{"image_id": 1, "caption": "A dog"}, {"caption": "A cat"}, 5], "images": [{"id": 1}, 7]}
    first, second, third = rows(tmp_path / "b.json", json.dumps(coco))
    assert first.caption == "A dog" and first.image is None and second.caption == "A cat" and third.problem


@pytest.mark.parametrize("negatives", [DEEP, "[", "5", "[1]", "__import__('os')", "['a' * 10]"])
def test_damaged_list_of_negclip_is_a_problem_of_its_row(tmp_path, negatives):
    text = f"title\tfilepath\tneg_caption\nA dog\t1.jpg\t['A cat']\nA bird\t2.jpg\t{negatives}\n"
    good, bad = rows(tmp_path / "n.tsv", text)
    assert [n.text for n in good.negatives] == ["A cat"] and good.image == "1.jpg"
    assert bad.problem and not bad.negatives


def test_columns_of_negatives_come_in_the_order_of_their_numbers(tmp_path):
    names = [f"negative_{i}" for i in range(1, 12)]
    text = (
        ",".join(["image", "caption", *names, "negative_type"]) + "\n1.jpg,A dog," + ",".join(names) + ",swap_nouns\n"
    )
    (row,) = rows(tmp_path / "c.csv", text)
    assert [negative.text for negative in row.negatives] == names


def test_image_that_is_not_a_path_is_a_problem(tmp_path):
    table = pa.table({"image": [b"abc", None], "caption": ["A dog", "A cat"]})
    pq.write_table(table, tmp_path / "c.parquet")
    bad, good = read_captions(str(tmp_path / "c.parquet"))
    assert bad.problem == "the image is bytes, not a path" and good.caption == "A cat" and not good.problem
