"""CE-CLIP's authors' ``.npy`` files: read without running their pickles."""

import pickle

import numpy as np
import pytest
import torch

from degla.data.datamodule import DataModule
from degla.data.sources import ce_clip_npy, folder
from degla.data.sources.object_arrays import read_object_array
from degla.errors import ConfigError
from degla.models import load_clip
from tests.conftest import TINY, degla, only_run, read_csv

# The first item is as the authors' notebook shows one.
ITEMS = [
    {
        "image_id": 476220,
        "id": 314,
        "caption": "An empty kitchen with white and black appliances.",
        "relation_aug_caption": "###",
        "adj_aug_caption": "An interior kitchen with white and black appliances.",
        "noun_aug_caption": "An empty room with white and black appliances.",
        "verb_aug_caption": "###",
        "valid_caption": [1, 0, 1, 1, 0],
    },
    {
        "image_id": 9,
        "id": 7,
        "caption": "A dog chases a cat near a tree.",
        "relation_aug_caption": "A cat chases a dog near a tree.",
        "adj_aug_caption": "big",
        "noun_aug_caption": "A dog chases a car near a tree.",
        "verb_aug_caption": "A dog sees a cat near a tree.",
        "valid_caption": [1, 1, 0, 1, 1],
    },
]
TYPES = ["swap_nouns", "replace_adjectives", "replace_nouns", "replace_verbs"]


@pytest.fixture
def images(photo_folder):
    for item in ITEMS:
        (photo_folder / f"images/COCO_train2014_{item['image_id']:012d}.jpg").write_bytes(
            (photo_folder / "images/0.jpg").read_bytes()
        )
    return str(photo_folder / "images")


def save(path, items):
    """As the authors save a list of dictionaries."""
    with path.open("wb") as file:
        np.save(file, items)
    return str(path)


def test_the_authors_items(tmp_path, images):
    rows = ce_clip_npy(save(tmp_path / "processed_dataset0.npy", ITEMS), images).samples([0, 1])
    assert [row.caption for row in rows] == [item["caption"] for item in ITEMS]
    assert rows[0].image_path.endswith("/images/COCO_train2014_000000476220.jpg") and rows[0].id.endswith(".npy:0")
    assert [negative.type for negative in rows[0].negatives] == TYPES
    assert [negative.text for negative in rows[0].negatives] == ["", *(ITEMS[0][k] for k in list(ITEMS[0])[4:6]), ""]
    assert [bool(negative.text) for negative in rows[1].negatives] == [True, False, True, True]


def test_negatives_keep_their_slots(tmp_path, images):
    """The authors' thresholds are one for each slot, so a negative that is missing must not move the others."""
    student = load_clip("degla-tiny")
    source = ce_clip_npy(save(tmp_path / "a.npy", ITEMS), images)
    settings = {"global_batch_size": 2, "epochs": 1, "num_workers": 0, "negatives": "in_place"}
    batch = next(
        iter(DataModule(source, student.tokenizer, (64, 64), student.preprocess, **settings).train_dataloader())
    )
    by_caption = dict(zip([sample.caption for sample in batch.samples], batch.negative_mask.tolist(), strict=True))
    for item in ITEMS:
        assert by_caption[item["caption"]] == [bool(flag) for flag in item["valid_caption"][1:]]
    types = [[slot and slot.type for slot in slots] for slots in batch.slots]
    assert all(kind in (None, expected) for row in types for kind, expected in zip(row, TYPES, strict=True))
    assert not batch.problems and torch.equal(
        batch.negative_mask, torch.tensor([[s is not None for s in r] for r in types])
    )


def test_several_files_are_read_in_the_order_of_their_numbers(tmp_path, images):
    for number in (0, 2, 10, 1):
        save(tmp_path / f"processed_dataset{number}.npy", [{**ITEMS[0], "caption": f"of file {number}"}])
    rows = ce_clip_npy(str(tmp_path), images).samples(range(4))
    assert [row.caption for row in rows] == ["of file 0", "of file 1", "of file 2", "of file 10"]


@pytest.mark.parametrize("flags", [np.array([1, 0, 1, 1, 0]), [np.int64(1), np.bool_(False), 1, 1, np.uint8(0)]])
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_numbers_of_numpy_are_read(tmp_path, images, flags, protocol):
    array = np.empty(1, dtype=object)
    array[0] = {**ITEMS[0], "valid_caption": flags, "image_id": np.int64(476220)}
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        pickle.dump(array, file, protocol=protocol)
    row = ce_clip_npy(str(tmp_path / "a.npy"), images).samples([0])[0]
    assert not row.problem and [bool(n.text) for n in row.negatives] == [False, True, True, False]
    assert row.image_path.endswith("000000476220.jpg")


class Shell:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


class SetState:
    """Sets attributes of what it is given, by the instruction BUILD."""

    def __reduce__(self):
        return np.dtype, ("i8",), (None, {"name": "O"})


@pytest.mark.parametrize(
    "name", ["posix.system", "builtins.eval", "numpy.load", "degla.data.sources.records.read_records"]
)
def test_a_pickle_that_names_anything_else_is_refused_and_not_run(tmp_path, images, name):
    module, function = name.rsplit(".", 1)
    witness = tmp_path / "ran"
    content = pickle.dumps(np.array([Shell(witness)], dtype=object), protocol=3)
    assert b"cposix\nsystem\n" in content
    content = content.replace(b"cposix\nsystem\n", f"c{module}\n{function}\n".encode())
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        file.write(content)
    with pytest.raises(ConfigError, match=rf"it names {name}, which a file of captions does not need"):
        ce_clip_npy(str(tmp_path / "a.npy"), images)
    assert not witness.exists()


def broken(tmp_path, content):
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        file.write(content)
    return path


ARRAY = pickle.dumps(np.array(ITEMS, dtype=object), protocol=3)
DAMAGED = {
    "truncated": ARRAY[:-40],
    "empty": b"",
    "no array": pickle.dumps(ITEMS),
    "a large entry of the memo": b"\x80\x04]r\xff\xff\xff\x7f.",  # a table of 16 GB
    "a persistent id": b"\x80\x04P1\n.",
    "an extension": b"\x80\x04\x82\x01.",
    "a state of another shape": ARRAY.replace(b"K\x01K\x02\x85", b"K\x01K\x02K\x02"),
    "an attribute of the type": pickle.dumps([SetState()], protocol=2),
    "bytes that are no pickle": b"\xff\xfe\x00" * 30,
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_one_sentence(tmp_path, case):
    with pytest.raises(ConfigError, match=r"is not an .npy file of plain dictionaries") as refusal:
        read_object_array(broken(tmp_path, DAMAGED[case]))
    assert "\n" not in str(refusal.value)


def test_arrays_of_numbers_and_other_files_are_refused(tmp_path, images):
    np.save(tmp_path / "numbers.npy", np.zeros(3))
    with pytest.raises(ConfigError, match="it holds numbers or texts of type float64, not objects"):
        ce_clip_npy(str(tmp_path / "numbers.npy"), images)
    (tmp_path / "t.csv").write_text("image,caption\nx.jpg,a\n")
    with pytest.raises(ConfigError, match=r"t.csv is a CSV table of captions; set data=folder"):
        ce_clip_npy(str(tmp_path / "t.csv"), images)
    save(tmp_path / "a.npy", ITEMS)
    with pytest.raises(ConfigError, match=r"set data=ce_clip_npy data.annotations=.*a.npy"):
        folder(str(tmp_path / "a.npy"))


BAD_ITEMS = {
    "the item is the text": "a dog",
    "image_id is the text": {**ITEMS[0], "image_id": "12a"},
    "image_id is missing": {k: v for k, v in ITEMS[0].items() if k != "image_id"},
    "image_path is the value 3": {**ITEMS[0], "image_path": 3},
    "valid_caption is a list of 4": {**ITEMS[0], "valid_caption": [1, 1, 1, 1]},
    "noun_aug_caption is missing": {k: v for k, v in ITEMS[0].items() if k != "noun_aug_caption"},
    "caption is the value 5": {**ITEMS[0], "caption": 5},
}


@pytest.mark.parametrize("problem", BAD_ITEMS)
def test_a_bad_item_is_a_named_problem(tmp_path, images, problem):
    rows = ce_clip_npy(save(tmp_path / "a.npy", [ITEMS[0], BAD_ITEMS[problem], ITEMS[1]]), images).samples(range(3))
    assert [bool(row.problem) for row in rows] == [False, True, False]
    assert problem in rows[1].problem and rows[1].id == "a.npy:1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, None), "data.annotations is not set: set data.annotations=/path/to the .npy files"),
        (("no.npy", None), r"there is no file .*no.npy"),
        ((".", None), "holds no .npy file"),
        (("a.npy", None), "data.image_root=None is not a folder"),
    ],
)
def test_what_is_missing_is_named(tmp_path, arguments, message):
    save(tmp_path / "a.npy", ITEMS)
    (tmp_path / "empty").mkdir()
    names = {"no.npy": tmp_path / "no.npy", ".": tmp_path / "empty", "a.npy": tmp_path / "a.npy"}
    with pytest.raises(ConfigError, match=message):
        ce_clip_npy(str(names[arguments[0]]) if arguments[0] else None, arguments[1])
    with pytest.raises(ConfigError, match=r"data.split=test2014 must be train2014 or val2014"):
        ce_clip_npy(None, None, "test2014")


def test_a_run_trains_on_the_files(tmp_path, images):
    """CE-CLIP's objective; each of the four batches holds both images, which have four rows each."""
    items = [{**item, "caption": f"{item['caption']} {number}"} for number in range(4) for item in ITEMS]
    save(tmp_path / "processed_dataset0.npy", items)
    keys = ["data=ce_clip_npy", f"data.annotations={tmp_path}", f"data.image_root={images}", "objective=ce_clip"]
    loader = ["loader.negatives=in_place", "loader.global_batch_size=2", "loader.unique_images=true", "loader.epochs=1"]
    result = degla(*TINY, *keys, *loader, cwd=tmp_path)
    rows = read_csv(only_run(tmp_path) / "metrics.csv")
    losses = [float(row["value"]) for row in rows if row["name"] == "train/loss"]
    assert len(losses) == 4 and all(loss > 0 for loss in losses)
    assert "unique_images" not in result.stdout + result.stderr
