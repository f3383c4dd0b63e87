"""Files that are malformed end in one sentence that names the file; nothing is scored by accident."""

import io
import json
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from degla.data.images import BadImage
from degla.errors import ConfigError, DataError
from degla.evaluation.choice_task import ChoiceTask
from degla.evaluation.items import Choice, ImageRef
from degla.evaluation.tasks.aro import Aro
from degla.evaluation.tasks.half_truths import HalfTruths
from degla.evaluation.tasks.own import Own
from degla.evaluation.tasks.retrieval import Retrieval
from degla.evaluation.tasks.sugarcrepe import SugarCrepe
from degla.evaluation.tasks.sugarcrepe_pp import SugarCrepePP
from degla.evaluation.tasks.valse import Valse
from degla.evaluation.tasks.whatsup import WhatsUp
from degla.evaluation.tasks.winoground import Winoground
from degla.evaluation.tasks.zeroshot import ZeroShot
from degla.report.benchmark_report import print_tables
from degla.report.benchmark_results import read_results
from degla.report.benchmark_tables import BenchmarkTable
from degla.training.callbacks import Evaluate
from tests.helpers.benchmarks import write_image, write_json, write_parquet

BOX = {"bbox_x": 0, "bbox_y": 0, "bbox_w": 5, "bbox_h": 5}

# Task -> the file that it reads, and a good content.
TASKS = {
    "sugarcrepe": (
        lambda root: SugarCrepe(annotations=str(root), images="x", subsets=["swap_obj"]),
        "swap_obj.json",
        {"0": {"filename": "1.jpg", "caption": "a b", "negative_caption": "b a"}},
    ),
    "sugarcrepe_pp": (
        lambda root: SugarCrepePP(annotations=str(root), images="x", subsets=["swap_obj/itt"]),
        "swap_object.json",
        [{"id": 3, "filename": "1.jpg", "caption": "a b", "caption2": "a, b", "negative_caption": "b a"}],
    ),
    "valse": (
        lambda root: Valse(annotations=str(root), images={"swig": "x", "coco_val2017": "x"}, subsets=["plurals"]),
        "plurals.json",
        {"0": {"image_file": "1.jpg", "caption": "a b", "foil": "b a", "mturk": {"caption": 3}}},
    ),
    "aro_relation": (
        lambda root: Aro(annotations=str(root), images="x", subsets=["relation"]),
        "visual_genome_relation.json",
        [{**BOX, "image_path": "1.jpg", "true_caption": "a b", "false_caption": "b a", "relation_name": "on"}],
    ),
    "aro_attribution": (
        lambda root: Aro(annotations=str(root), images="x", subsets=["attribution"]),
        "visual_genome_attribution.json",
        [{**BOX, "image_path": "1.jpg", "true_caption": "a b", "false_caption": "b a", "attributes": ["red", "big"]}],
    ),
    "whatsup": (
        lambda root: WhatsUp(annotations=str(root), subsets=["controlled_a"]),
        "controlled_images_dataset.json",
        [{"image_path": "mug_on_table.jpg", "caption_options": ["a on b", "a under b"]}],
    ),
    "whatsup_questions": (
        lambda root: WhatsUp(annotations=str(root), subsets=["coco_one"]),
        "coco_qa_one_obj.json",
        [[139, "a on the left", "a on the right"]],
    ),
    "blip": (
        lambda root: Retrieval(str(root / "t.json"), "x"),
        "t.json",
        [{"image": "1.jpg", "caption": ["a b", "b a"]}],
    ),
    "karpathy": (
        lambda root: Retrieval(str(root / "t.json"), "x"),
        "t.json",
        {"images": [{"filename": "1.jpg", "split": "test", "sentences": [{"raw": "a b"}]}]},
    ),
    "own": (
        lambda root: Own(str(root / "my.jsonl")),
        "my.jsonl",
        {"image": "1.jpg", "captions": ["a b", "b a"], "label": 0},
    ),
    "half_truths": (
        lambda root: HalfTruths(hub=str(root), subsets=["coco_qwen"]),
        "coco_qwen.jsonl",
        {"image": "1.jpg", "anchor": "a b", "half_truth": "a b c"},
    ),
}


def leaves(content, path=()):
    """Return the paths of the scalars in a nested value."""
    if isinstance(content, dict | list):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield from leaves(content[key], (*path, key))
    else:
        yield path


def replaced(content, path, value):
    copy = json.loads(json.dumps(content))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return copy


@pytest.mark.parametrize("name", TASKS)
def test_a_good_file_is_read(tmp_path, name):
    make, file, content = TASKS[name]
    write_json(tmp_path / file, content)
    task = make(tmp_path)
    task.check_items()
    assert all(" " in text for text in task.list_texts())


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("value", [["a"], {"a": 1}, float("nan"), None, True], ids=str)
def test_a_value_of_another_type_is_one_sentence(tmp_path, name, value):
    """Any value in place of a text gives one sentence: no traceback, and no letters scored as captions."""
    make, file, content = TASKS[name]
    optional = {"id", "split", "bbox_x", "bbox_y", "bbox_w", "bbox_h", "label"}
    for path in leaves(content):
        if optional & set(path):
            continue
        write_json(tmp_path / file, replaced(content, path, value))
        if path[-1] == "caption" and "mturk" in path and value is True:
            continue  # a vote
        with pytest.raises(ConfigError) as caught:
            make(tmp_path).check_items()
        assert file in str(caught.value) and "\n" not in str(caught.value), path


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(
    "content", ["[1, 2]", "{}", "[]", "null", '"text"', "[[]]", '{"a": []}', "{", "\xff", "[" * 99999]
)
def test_another_shape_is_one_sentence(tmp_path, name, content):
    make, file, _ = TASKS[name]
    (tmp_path / file).write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        make(tmp_path).check_items()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def test_captions_that_are_one_string_are_not_scored_letter_by_letter(tmp_path):
    write_json(tmp_path / "my.jsonl", {"image": "1.jpg", "captions": "dog", "label": 0})
    with pytest.raises(ConfigError, match=r"my\.jsonl:1: captions must be a valid list, not 'dog'"):
        Own(str(tmp_path / "my.jsonl"))
    write_json(tmp_path / "t.json", [{"image": "1.jpg", "caption": "dog"}])
    with pytest.raises(ConfigError, match=r"caption must be a valid list, not 'dog'"):
        Retrieval(str(tmp_path / "t.json"), "x").check_items()
    rows = [{"image": write_image(tmp_path / "1.png"), "tested_labels": "dog"}]
    write_parquet(tmp_path / "SugarCrepe_swap_obj" / "test.parquet", rows, ["image"])
    with pytest.raises(ConfigError, match=r"row 0: tested_labels must be a valid list, not 'dog'"):
        SugarCrepe(hub=str(tmp_path), subsets=["swap_obj"]).check_items()


class OfLetters(ChoiceTask):
    """A benchmark of somebody else, who forgot the comma of a tuple."""

    def __init__(self, captions):
        super().__init__("letters", official_counts={"all": None})
        self.captions = captions

    def read(self, subset):
        return [Choice(subset, "0", ImageRef("1.jpg"), self.captions)] if self.captions else []


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ("dog", "all/0: captions 'dog' must be strings"),
        (("a", 1), "must be strings"),
        (("a",), "all/0 has 1 captions, not 2"),
        ((), "all holds no items"),
    ],
)
def test_items_of_any_benchmark_are_checked_once(captions, message):
    with pytest.raises(ConfigError, match=message):
        OfLetters(captions).check_items()


def test_winoground_rows_without_an_image_or_a_caption(tmp_path):
    image = write_image(tmp_path / "1.png")
    row = {"id": 0, "image_0": image, "image_1": image, "caption_0": "a b", "caption_1": "b a"}
    for name, value, message in (
        ("image_1", None, "row 1: image_1 "),
        ("caption_0", None, "row 1: caption_0 must be a valid string"),
        ("caption_1", " ", "row 1: caption_1 must not be empty"),
    ):
        write_parquet(tmp_path / name / "t.parquet", [dict(row), row | {name: value}], ["image_0", "image_1"])
        with pytest.raises(ConfigError, match=message):
            Winoground(hub=str(tmp_path / name)).check_items()


def webdataset(folder, names, labels):
    (folder / "test").mkdir(parents=True)
    (folder / "classnames.txt").write_text("banded\ndotted\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a {c} texture.\n")
    with tarfile.open(folder / "test" / "0.tar", "w") as archive:
        for name, label in zip(names, labels, strict=True):
            for suffix, data in (("cls", str(label).encode()), ("png", write_image(folder / "image.png"))):
                info = tarfile.TarInfo(f"{name}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("prefix", ["", "./", "test/", "./a.b/"])
def test_webdataset_names_with_a_folder(tmp_path, prefix):
    webdataset(tmp_path / "wds_vtab-dtd", [f"{prefix}0001", f"{prefix}0002"], [1, 0])
    data = ZeroShot(root=str(tmp_path), source="webdataset", subsets=["dtd"]).read("dtd")
    assert [data.classes[label] for label in data.labels] == ["dotted", "banded"] and all(
        image.load().shape == (3, 30, 40) for image in data.images
    )


@pytest.mark.parametrize(("names", "labels", "message"), [([], [], "holds no images"), (["1"], [2], "label 2 of 2")])
def test_webdataset_without_items_or_with_an_unknown_class(tmp_path, names, labels, message):
    webdataset(tmp_path / "wds_vtab-dtd", names, labels)
    with pytest.raises(ConfigError, match=message):
        ZeroShot(root=str(tmp_path), source="webdataset", subsets=["dtd"]).check_items()


def test_names_with_brackets_are_shown_as_they_are(capsys, tmp_path):
    table = BenchmarkTable("[bold]b", ["[/x]", "[red]"], [["[/model]", "1.0", "2.0"]], 0, ["note [/x]"])
    print_tables([table], tmp_path)
    output = capsys.readouterr().out
    assert all(name in output for name in ("[bold]b", "[/x]", "[red]", "[/model]", "note [/x]"))


RESULTS = {"format": 2, "label": "x", "benchmarks": {}, "made": {}, "model": {}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must be a valid dictionary"),
        ("{", "Expecting property name"),
        (json.dumps({"format": 2}), "label is missing"),
        (json.dumps({"format": 7}), "is of format 7, this degla reads 2"),
        (json.dumps(RESULTS | {"benchmarks": {"b": {}}}), r"benchmarks\.b\.subsets is missing"),
        (json.dumps(RESULTS | {"benchmarks": []}), "benchmarks must be a valid dictionary"),
    ],
)
def test_results_of_another_shape_are_one_sentence(tmp_path, content, message):
    (tmp_path / "results.json").write_text(content)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "items.parquet")
    with pytest.raises(ConfigError, match=message) as caught:
        read_results(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_items_of_another_shape_are_one_sentence(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    pq.write_table(pa.table({"benchmark": ["b"]}), tmp_path / "items.parquet")
    with pytest.raises(ConfigError, match=r"items\.parquet has no column caption"):
        read_results(tmp_path)
    (tmp_path / "items.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match="holds no results"):
        read_results(tmp_path)


def test_a_part_of_an_archive_is_read_as_safely_as_a_file(tmp_path):
    os.mkfifo(tmp_path / "shard.tar")  # opening it would wait for a writer
    with pytest.raises(BadImage, match="not a regular file"):
        ImageRef(str(tmp_path / "shard.tar"), span=(0, 10)).read()
    (tmp_path / "photos.tar").write_bytes(b"0123456789")
    assert ImageRef(str(tmp_path / "photos.tar"), span=(2, 3)).read() == b"234"
    with pytest.raises(BadImage, match="too large for an image"):
        ImageRef(str(tmp_path / "photos.tar"), span=(0, 2**40)).read()


def test_training_checks_the_images_of_its_benchmarks_first(tmp_path):
    lines = [json.dumps({"image": f"{n}.png", "captions": ["a dog", "a cat"], "label": 0}) for n in range(4)]
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    (tmp_path / "0.png").touch()
    task = Own(str(tmp_path / "items.jsonl"), str(tmp_path))
    with pytest.raises(DataError, match=r"benchmark.own: 3 of its 4 .*; callbacks.evaluate.max_missing=0.75 measures"):
        Evaluate({"own": task}).setup(None, None, "fit")
    Evaluate({"own": task}, max_missing=0.75).setup(None, None, "fit")
