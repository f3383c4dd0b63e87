"""Hostile tables: a bad line is a row with a problem and its line number, a doubtful file is refused with lines."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from degla.data.schema import Negative
from degla.data.sources import coco, folder, negclip_tsv
from degla.errors import ConfigError, DataError, DeglaError

GOOD = ["x0.jpg,a dog", "x1.jpg,a cat", "x2.jpg,a cow", "x3.jpg,a hen", "x4.jpg,a pig", "x5.jpg,a fox"]


def table(root, content, name="captions.csv"):
    data = content if isinstance(content, bytes) else content.encode()
    (root / name).write_bytes(data)
    return folder(str(root), name)


def csv_table(root, *lines, header="image,caption"):
    return table(root, "\n".join([header, *lines]) + "\n")


def rows(source):
    return source.samples(range(len(source)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x.jpg,a dog, a cat and a cow", r"line 5: 3 fields instead of 2"),  # read before: "a dog"
        ("x.jpg", r"line 5: 1 fields instead of 2"),
        ('x.jpg,"a dog', r"line 5: a quote opens a field that does not end"),  # swallowed all that follows
        ('"x.jpg,a dog', r"line 5: a quote opens"),
    ],
)
def test_a_doubtful_csv_is_refused_with_its_lines(tmp_path, line, message):
    with pytest.raises(DataError, match=message) as refusal:
        csv_table(tmp_path, *GOOD[:3], line, *GOOD[3:])
    assert str(refusal.value).startswith("1 row(s) of") and "\n" not in str(refusal.value)


def test_a_stray_quote_that_is_closed_lines_later_is_refused(tmp_path):
    """csv.DictReader read 4 rows of 8 here, without an error."""
    with pytest.raises(DataError, match=r"2 row\(s\).*line 3: .*line 7: "):
        csv_table(tmp_path, GOOD[0], 'a.jpg,"a dog', *GOOD[1:4], 'b.jpg,"a cat', GOOD[5])


def test_many_doubtful_rows_are_counted_and_five_are_named(tmp_path):
    with pytest.raises(DataError, match=r"^9 row\(s\).*line 2: .*line 6: 3 fields instead of 2; \.\.\.\)"):
        csv_table(tmp_path, *["x.jpg,a,b"] * 9)


def test_quoted_commas_quotes_and_line_breaks_are_read(tmp_path):
    lines = ['x.jpg,"a dog, a cat"', 'y.jpg,"a ""big"" dog"', 'z.jpg,"first line\nsecond line"', 'w.jpg,a 5" dog', ""]
    found = rows(csv_table(tmp_path, *lines))
    assert [row.caption for row in found] == ["a dog, a cat", 'a "big" dog', "first line\nsecond line", 'a 5" dog']
    assert [row.id for row in found] == [f"captions.csv:{line}" for line in (2, 3, 4, 6)]


def test_a_trailing_comma_is_not_a_field(tmp_path):
    assert [row.caption for row in rows(csv_table(tmp_path, "x.jpg,a dog,", "y.jpg,a cat"))] == ["a dog", "a cat"]


def test_duplicate_headers_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="column 'caption' more than once"):
        csv_table(tmp_path, "x.jpg,a,b", header="image,caption,caption")
    pq.write_table(pa.table([["x"], ["a"], ["b"]], names=["image", "caption", "caption"]), tmp_path / "t.parquet")
    with pytest.raises(ConfigError, match="column 'caption' more than once"):
        folder(str(tmp_path), "t.parquet")


BAD_CSV_LINES = {
    "not UTF-8 at byte 9": b"x.jpg,a \xff dog",
    "field larger than field limit": b"x.jpg," + b"a" * 200_000,
    "expected after": b'x.jpg,"a" dog',
    "text of a list": b"x.jpg,\"['a dog', 'two dogs']\"",
}


@pytest.mark.parametrize("problem", BAD_CSV_LINES)
def test_a_bad_csv_line_is_a_named_problem(tmp_path, problem):
    found = rows(table(tmp_path, b"image,caption\nx.jpg,good\n" + BAD_CSV_LINES[problem] + b"\ny.jpg,fine\n"))
    assert [row.caption for row in found if not row.problem] == ["good", "fine"]
    assert found[1].id == "captions.csv:3" and problem in found[1].problem


def json_line(**values):
    return json.dumps({"image": "x.jpg", "caption": "a", **values}).encode()


BAD_JSON_LINES = {
    "caption is not valid Unicode": b'{"image": "x.jpg", "caption": "a \\ud800 dog"}',
    "image is not valid Unicode": b'{"image": "\\ud800.jpg", "caption": "a dog"}',
    "a negative is not valid Unicode": b'{"image": "x.jpg", "caption": "a", "negatives": ["\\udfff"]}',
    "the type of a negative is the value 5": json_line(negatives=[{"text": "b", "type": 5}]),
    "not UTF-8 at byte": b'{"image": "x.jpg", "caption": "\xff"}',
    "nested too deeply": b'{"image": "x.jpg", "caption": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "caption is the value inf": b'{"image": "x.jpg", "caption": ' + b"9" * 5000 + b"}",
    "caption is a list of 2, not a text": json_line(caption=["a dog", "two dogs"]),
    "caption is an object with the keys raw": json_line(caption={"raw": "a dog"}),
    "caption is the value nan": b'{"image": "x.jpg", "caption": NaN}',
    "caption is the value 7": json_line(caption=7),
    "caption is the value True": json_line(caption=True),
    "image is the value 3": json_line(image=3),
    "image is a list of 1": json_line(image=["x.jpg"]),
    "negatives are not a JSON list": json_line(negatives="[broken"),
    "negatives are the value 7": json_line(negatives=7),
    "negative_1: a negative is an object": json_line(negative_1=3),
    "not an object": b"[1, 2]",
    "not JSON": b"{broken",
}


@pytest.mark.parametrize("problem", BAD_JSON_LINES)
def test_a_bad_json_line_is_a_named_problem(tmp_path, problem):
    lines = [json_line(caption="good"), BAD_JSON_LINES[problem], json_line(caption="fine")]
    found = rows(table(tmp_path, b"\n".join(lines), "captions.jsonl"))
    assert [row.caption for row in found if not row.problem] == ["good", "fine"]
    assert found[1].id == "captions.jsonl:2" and problem in found[1].problem


def test_late_bytes_that_are_not_utf_8_cost_one_line(tmp_path):
    lines = [json_line(caption=f"caption {i}") for i in range(3000)]
    lines[2900] = lines[2900].replace(b"caption 2900", b"caption \xe9")
    found = rows(table(tmp_path, b"\n".join(lines), "captions.jsonl"))
    assert len(found) == 3000 and [row.id for row in found if row.problem] == ["captions.jsonl:2901"]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"negative_10": "k", "negative_2": "b", "negative_1": "a"}, [("a",), ("b",), ("k",)]),
        ({"negative": "a", "negative_type": "swap_nouns"}, [("a", "swap_nouns")]),
        ({"negative_1": "a", "negative_type_1": "x", "negative_2": "b"}, [("a", "x"), ("b",)]),
        ({"negative_caption": "a"}, [("a",)]),
        ({"negative_caption": ["a", "b"]}, [("a",), ("b",)]),
        ({"negative_type": "swap_nouns"}, []),
        ({"negative_score": 0.5, "negatives_source": "gpt"}, []),
        ({"negatives": {"text": ["a", "b"], "type": ["x", "y"]}}, [("a", "x"), ("b", "y")]),
        ({"negatives": "['a', \"b's\"]"}, [("a",), ("b's",)]),
        ({"negatives": None, "negative_1": "a"}, [("a",)]),
    ],
)
def test_columns_of_negatives(tmp_path, record, expected):
    found = rows(table(tmp_path, json_line(**record), "captions.jsonl"))
    assert not found[0].problem and found[0].negatives == [Negative(*parts) for parts in expected]


def test_parquet_rows_that_are_not_text(tmp_path):
    bad = pa.array([b"good", b"\xff\xfe", b"fine"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"image": pa.array(["x.jpg"] * 3), "caption": bad}), tmp_path / "t.parquet")
    found = rows(folder(str(tmp_path), "t.parquet"))
    assert [row.caption for row in found if not row.problem] == ["good", "fine"] and found[1].id == "t.parquet:2"


def test_a_truncated_parquet_file(tmp_path):
    pq.write_table(pa.table({"image": ["x.jpg"], "caption": ["a"]}), tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-30])
    with pytest.raises(ConfigError, match="not a Parquet file, or it is damaged"):
        folder(str(tmp_path), "t.parquet")


@pytest.mark.parametrize(
    ("name", "content", "source"),
    [
        ("t.csv", "image,caption\n\n", lambda path: folder(str(path.parent), path.name)),
        ("t.tsv", "\ttitle\tfilepath\tneg_caption\tneg_image\n", lambda path: negclip_tsv(str(path), str(path.parent))),
        ("t.json", '[{"original": 1, "enhanced": 2}]', lambda path: negclip_tsv(str(path), str(path.parent))),
        ("e.json", "[]", lambda path: coco(str(path), str(path.parent))),
    ],
)
def test_tables_without_rows(tmp_path, name, content, source):
    (tmp_path / name).write_text(content)
    with pytest.raises(DeglaError, match=r"holds no rows|the authors' JSON"):
        source(tmp_path / name)


def test_negclips_tsv_without_one_of_its_columns(tmp_path):
    (tmp_path / "t.tsv").write_text("\ttitle\tpath\tneg_caption\tneg_image\n0\ta\tx.jpg\t['b']\t[0]\n")
    with pytest.raises(ConfigError, match=r"no column 'filepath' \(it has , title, path, neg_caption, neg_image\)"):
        negclip_tsv(str(tmp_path / "t.tsv"), str(tmp_path))


AUTHORS_ITEM = {"image_id": 9, "original": "a dog", "enhanced": ["b"]}


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (b'{"image_id": "nine", "original": "a", "enhanced": []}', "image_id is the text 'nine'"),
        (b'{"original": "a", "enhanced": []}', "image_id is missing"),
        (b'{"image_id": true, "original": "a", "enhanced": []}', "image_id is the value True"),
        (b'{"image_id": 1, "original": ["a"], "enhanced": []}', "caption is a list of 1"),
        (b'{"image_id": 1, "original": "a", "enhanced": 7}', "negatives are the value 7"),
        (b'{"image_id": 1, "original": "a \xff", "enhanced": []}', "caption is not valid Unicode"),
        (b'{"image_id": 1, "original": ' + b"9" * 5000 + b', "enhanced": []}', "caption is the value inf"),
        (b"[1]", "the item is a list of 1"),
    ],
)
def test_a_bad_item_of_the_authors_json(tmp_path, item, problem):
    good = json.dumps(AUTHORS_ITEM).encode()
    (tmp_path / "train.json").write_bytes(b"[" + b",\n".join([good, item, good]) + b"]")
    found = rows(coco(str(tmp_path / "train.json"), str(tmp_path)))
    assert [bool(row.problem) for row in found][::2] == [False, False] and found[1].id == "train.json:1"
    assert problem in found[1].problem


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps([AUTHORS_ITEM])[:-3], r"damaged: it is not JSON at line 1, column \d+"),
        ('[{"original": 1, "enhanced": ' + "[" * 100_000, "nested too deeply"),
        (json.dumps(AUTHORS_ITEM), "holds a JSON dict, not a list"),
    ],
)
def test_a_damaged_authors_json(tmp_path, content, message):
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        coco(str(tmp_path / "train.json"), str(tmp_path))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ("a\tx.jpg\t['b'\t[0]", "neg_caption is not a list in Python's notation"),
        ("a\tx.jpg\t" + "(" * 9000 + "\t[0]", "neg_caption is not a list"),
        ("a\tx.jpg\t[1]\t[0]", "neg_caption is a list of 1, not a list of str"),
        ("a\tx.jpg\t['b']\t['c']", "neg_image is a list of 1, not a list of int"),
        ("a\tx.jpg\t['b']\t[-1]", "neg_image has a row number below 0"),
        ("a\tx.jpg\t['b']\t[99999999999]", "neg_image has a row number"),
        ("a\tx.jpg\t__import__('os')\t[0]", "neg_caption is not a list"),
        ("a\t\t['b']\t[0]", "no image is named"),
        ("a \\\tx.jpg\t{'b': 1}\t[0]", "neg_caption is an object"),
    ],
)
def test_a_bad_line_of_negclips_tsv(tmp_path, fields, problem):
    lines = ["\ttitle\tfilepath\tneg_caption\tneg_image", "0\ta\ty.jpg\t['b']\t[0]", f"1\t{fields}"]
    (tmp_path / "neg.tsv").write_text("\n".join([*lines, "2\tc\tz.jpg\t['d']\t[0]"]))
    found = rows(negclip_tsv(str(tmp_path / "neg.tsv"), str(tmp_path)))
    assert [bool(row.problem) for row in found] == [False, True, False]
    assert problem in found[1].problem and found[1].id == "neg.tsv:3"
