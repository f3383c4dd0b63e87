"""Every file format gives the same samples."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from degla.data.scenes import GENERAL_TASKS
from degla.data.schema import Negative, parse_negatives
from degla.data.sources import SampleStream, coco, folder, huggingface, negclip_tsv, scenes, scenes_and_general
from degla.errors import ConfigError
from tests.conftest import KINDS


def write_table(root, records, suffix):
    path = root / f"captions{suffix}"
    if suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(record) for record in records))
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        flat = [{**record, "negatives": json.dumps(record["negatives"])} for record in records]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, flat[0], delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(flat)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("typed", [True, False])
def test_folder_formats(photo_folder, tmp_path, suffix, typed):
    negatives = [
        {"text": 'a "cat", and a dog', "type": "swap_nouns"},
        {"text": "ein Hündchen", "type": "replace_nouns"},
    ]
    records = [
        {
            "image": f"images/{i}.jpg",
            "caption": f"caption {i}",
            "negatives": negatives if typed else [n["text"] for n in negatives],
        }
        for i in range(3)
    ]
    (photo_folder / "captions.jsonl").unlink()
    write_table(photo_folder, records, suffix)
    table = folder(str(photo_folder))
    rows = table.samples([0, 2])
    assert len(table) == 3 and [row.caption for row in rows] == ["caption 0", "caption 2"]
    assert rows[1].image_path == str(photo_folder.resolve() / "images/2.jpg")
    kinds = ["swap_nouns", "replace_nouns"] if typed else ["unknown", "unknown"]
    assert rows[0].negatives == [Negative(n["text"], kind) for n, kind in zip(negatives, kinds, strict=True)]


def test_csv_with_a_column_a_negative(photo_folder):
    (photo_folder / "captions.jsonl").unlink()
    (photo_folder / "c.csv").write_text("image,caption,negative_1,negative_2\nimages/0.jpg,a,b,c\nimages/1.jpg,d,e,\n")
    rows = folder(str(photo_folder)).samples([0, 1])
    assert [[n.text for n in row.negatives] for row in rows] == [["b", "c"], ["e"]]


def test_bad_lines_become_rows_with_a_problem(photo_folder):
    lines = ['{"image": "images/0.jpg", "caption": "good"}', "{broken", '"text"', '{"caption": "no image"}',
             '{"image": "images/0.jpg", "caption": "x", "negatives": 7}']  # fmt: skip
    (photo_folder / "captions.jsonl").write_text("\n".join(lines))
    rows = folder(str(photo_folder)).samples(list(range(5)))
    assert [row.id for row in rows] == [f"captions.jsonl:{i}" for i in range(1, 6)]
    assert [bool(row.problem) for row in rows] == [False, True, True, True, True]


def test_changed_file_is_read_again(photo_folder):
    assert len(folder(str(photo_folder))) == 24
    with (photo_folder / "captions.jsonl").open("a") as file:
        file.write('{"image": "images/0.jpg", "caption": "one more"}\n')
    assert len(folder(str(photo_folder))) == 25


def test_authors_json(tmp_path):
    items = [{"image_id": 9, "original": "a dog", "enhanced": ["b", "c", "d", "e", "f"]}]
    (tmp_path / "train.json").write_text(json.dumps(items))
    (tmp_path / "train2014").mkdir()
    row = coco(str(tmp_path / "train.json"), str(tmp_path / "train2014")).samples([0])[0]
    assert row.image_path.endswith("train2014/COCO_train2014_000000000009.jpg")
    assert [n.text for n in row.negatives] == ["b", "c", "d", "e", "f"]


def write_authors_json(root):
    (root / "train.json").write_text(json.dumps([{"image_id": 9, "original": "a dog", "enhanced": ["b"]}]))
    return str(root / "train.json")


def test_negclip_tsv(tmp_path):
    text = (
        "\ttitle\tfilepath\tneg_caption\tneg_image\n0\ta dog\tcoco/val2014/x.jpg\t['dog a', \"a cat's\"]\t[1, 0, 1]\n"
    )
    text += "1\ta cat\tcoco/val2014/y.jpg\tnot a list\t[0]\n"
    (tmp_path / "neg.tsv").write_text(text)
    rows = negclip_tsv(str(tmp_path / "neg.tsv"), str(tmp_path)).samples([0, 1])
    assert [n.text for n in rows[0].negatives] == ["dog a", "a cat's"] and rows[0].hard_image_rows == [1, 0, 1]
    assert rows[1].problem


def test_official_negclip_file(flickr):
    """4839 rows and 7370 negatives, as its README counts them."""
    file = flickr.parent / "negclip" / "valid_neg_clip.tsv"
    table = negclip_tsv(str(file), str(file.parent))
    rows = table.samples(list(range(len(table))))
    assert len(rows) == 4839 and sum(len(row.negatives) for row in rows) == 7370
    assert not any(row.problem for row in rows)


def check(rows):
    assert [row.caption for row in rows[:2]] == ["photo number 0 said 0", "photo number 0 said 1"]
    assert rows[0].image_bytes[:2] == b"\xff\xd8"
    assert [n.type for n in rows[0].negatives] == list(KINDS)


def test_hub_parquet(hub_dataset, tmp_path):
    (tmp_path / "data").mkdir()
    hub_dataset.to_parquet(tmp_path / "data" / "train-00000.parquet")
    check(huggingface(str(tmp_path / "data")).samples([0, 1]))
    check(huggingface("parquet", data_files=str(tmp_path / "data" / "*.parquet")).samples([0, 1]))


def test_hub_stream_is_complete_and_repeats(hub_dataset, tmp_path):
    for i in range(4):
        hub_dataset.shard(4, i).to_parquet(tmp_path / f"train-{i}.parquet")
    stream = huggingface("parquet", data_files=str(tmp_path / "*.parquet"), streaming=True)
    assert isinstance(stream, SampleStream)
    first = [row.caption for row in stream.samples(0, 0)]
    assert sorted(first) == sorted(hub_dataset["caption"])
    assert first == [row.caption for row in stream.samples(0, 0)]
    assert first != [row.caption for row in stream.samples(0, 1)]


def test_imagefolder_with_lists(photo_folder):
    lines = [json.loads(line) for line in (photo_folder / "captions.jsonl").read_text().splitlines()][::2]
    (photo_folder / "captions.jsonl").unlink()
    records = [
        {"file_name": r["image"], "caption": r["caption"], "negatives": [n["text"] for n in r["negatives"]]}
        for r in lines
    ]
    (photo_folder / "metadata.jsonl").write_text("\n".join(json.dumps(r) for r in records))
    rows = huggingface(str(photo_folder)).samples([0])
    assert rows[0].image_path.endswith("0.jpg") and len(rows[0].negatives) == 5


def test_webdataset(photo_folder, tmp_path):
    import io
    import tarfile

    with tarfile.open(tmp_path / "shard-0.tar", "w") as tar:
        for i in range(3):
            record = json.dumps({"caption": f"caption {i}", "negatives": ["x", "y"]}).encode()
            for name, data in ((f"{i}.jpg", (photo_folder / f"images/{i}.jpg").read_bytes()), (f"{i}.json", record)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    arguments = {"image": "jpg", "caption": "json.caption", "negatives": "json.negatives"}
    row = huggingface("webdataset", data_files=str(tmp_path / "*.tar"), **arguments).samples([1])[0]
    assert row.caption == "caption 1" and [n.text for n in row.negatives] == ["x", "y"] and row.image_bytes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: folder(None), "data.path is not set"),
        (lambda p: folder(str(p / "no")), "there is no folder"),
        (lambda p: folder(str(p / "images")), "no annotation file"),
        (lambda p: folder(str(p), "no.csv"), "there is no file"),
        (lambda p: folder(str(p), image_root="no"), "data.image_root"),
        (lambda p: coco(None, None), "huggingface.co/datasets/wsdwJohn1231/DeGLA"),
        (lambda p: coco(write_authors_json(p), None), "cocodataset.org"),
        (lambda p: huggingface("no/such-dataset"), "cannot be loaded"),
        (lambda p: huggingface(None), "data.path is not set"),
    ],
)
def test_what_is_missing_is_named(photo_folder, call, message):
    with pytest.raises(ConfigError, match=message):
        call(photo_folder)


def test_missing_column(photo_folder):
    (photo_folder / "captions.jsonl").write_text('{"picture": "images/0.jpg", "caption": "x"}\n')
    with pytest.raises(ConfigError, match=r"no column 'image' .*picture"):
        folder(str(photo_folder))


def test_scenes_are_the_same_bytes_for_a_seed(tmp_path):
    one, two = (scenes(20, seed=3, cache_dir=str(tmp_path / name)).samples(list(range(20))) for name in "ab")
    assert one == two
    assert one != scenes(20, split="test", seed=3, cache_dir=str(tmp_path)).samples(list(range(20)))
    assert one != scenes(20, seed=4, cache_dir=str(tmp_path)).samples(list(range(20)))


@pytest.mark.parametrize("value", [7, "not json", [1], [{"txt": "x"}], {"text": "x"}])
def test_parse_negatives_refuses(value):
    with pytest.raises(ValueError):
        parse_negatives(value)


def test_scenes_and_general_tasks_are_mixed(tmp_path):
    rows = scenes_and_general(300, general_fraction=0.5, cache_dir=str(tmp_path)).samples(list(range(300)))
    prompts = {form.format(name) for task in GENERAL_TASKS.values() for name in task.classes for form in task.templates}
    general = [row for row in rows if row.caption in prompts]
    assert 110 < len(general) < 190 and not any(row.negatives for row in rows)
