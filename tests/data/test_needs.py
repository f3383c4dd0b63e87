"""Batches carry what an objective needs, and nothing else is read, tokenized or drawn."""

import csv
import hashlib
import json
import re
from collections import Counter

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from degla.data.collate import Collate, Draw
from degla.data.datamodule import DataModule
from degla.data.identity import image_id, text_id
from degla.data.requirements import refuse_missing_columns
from degla.data.schema import Negative, StoredImage, Unit
from degla.data.sources import folder, huggingface
from degla.data.transforms import TrainTransform
from degla.errors import ConfigError, DataError
from degla.models import load_clip
from degla.training.resume import identify_data

ALL = ("negatives", "units", "paraphrases", "second_captions", "negative_images", "identity")
UNITS = [{"text": "a black dog", "foil": "a white dog"}, {"text": "on grass", "foil": "on sand"}]


@pytest.fixture(scope="module")
def student():
    return load_clip("degla-tiny")


@pytest.fixture
def rich_folder(photo_folder):
    """The photos with every optional column; the negative image of image i is image i + 1."""
    lines = [json.loads(line) for line in (photo_folder / "captions.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        line["units"] = [{key: f"{text} {number}" for key, text in unit.items()} for unit in UNITS]
        line["paraphrases"] = [f"wording {'abc'[i]} of {number}" for i in range(3)]
        line["negative_images"] = [f"images/{(number // 2 + 1) % 12}.jpg"]
    write(photo_folder, lines)
    return photo_folder


def write(root, lines):
    (root / "captions.jsonl").write_text("\n".join(json.dumps(line) for line in lines))


def loaders(source, student, **settings):
    settings = {"global_batch_size": 4, "epochs": 1, "num_workers": 0} | settings
    return DataModule(source, student.tokenizer, student.image_size, student.preprocess, **settings)


def batches(source, student, **settings):
    return list(loaders(source, student, **settings).train_dataloader())


def decoded(student, tokens):
    """Return the texts of ``(S, L)`` tokens, without the spaces that the tokenizer adds between digits."""
    texts = [student.tokenizer.tokenize.decode(row[row > 0].tolist()[1:-1]).strip() for row in tokens]
    return [re.sub(r"(?<=\d) (?=\d\b)", "", text) for text in texts]


def same(one, other):
    """Whether two batches have the same images, captions and negatives; padding may differ."""
    length = min(one.captions.shape[1], other.captions.shape[1])
    return (
        torch.equal(one.images, other.images)
        and torch.equal(one.captions[:, :length], other.captions[:, :length])
        and torch.equal(one.negatives[..., :length], other.negatives[..., :length])
        and one.slots == other.slots
    )


def test_every_need_is_in_the_batch(student, rich_folder):
    batch = batches(folder(str(rich_folder)), student, needs=ALL, num_units=3)[0]
    assert list(batch.extra_texts) == ["units", "foils", "paraphrases", "second_captions"]
    assert {name: tuple(slots.tokens.shape[:2]) for name, slots in batch.extra_texts.items()} == {
        **{"units": (4, 3), "foils": (4, 3), "paraphrases": (4, 1), "second_captions": (4, 1)}
    }
    for number, sample in enumerate(batch.samples):
        texts = {name: decoded(student, slots.tokens[number]) for name, slots in batch.extra_texts.items()}
        assert texts["units"] == [unit.text for unit in sample.units] + [""]
        assert texts["foils"] == [unit.foil for unit in sample.units] + [""]
        assert texts["paraphrases"][0] in sample.paraphrases
        image, said = sample.caption.removeprefix("photo number ").split(" said ")
        assert texts["second_captions"] == [f"photo number {image} said {1 - int(said)}"]
    assert batch.extra_texts["units"].mask.tolist() == [[True, True, False]] * 4
    assert all(slots.tokens.dtype == torch.int64 for slots in batch.extra_texts.values())
    assert batch.negative_images.shape == batch.images.shape and batch.negative_images.dtype == torch.uint8
    assert batch.negative_image_mask.tolist() == [True] * 4
    assert batch.image_ids.tolist() == [image_id(sample.image_path) for sample in batch.samples]
    assert batch.text_ids.tolist() == [text_id(sample.caption) for sample in batch.samples]


def test_texts_are_those_of_the_tokenizer(student, rich_folder):
    data = loaders(folder(str(rich_folder)), student, needs=ALL, negatives="random", epochs=2)
    with_table = list(data.train_dataloader())
    data.tokens = None
    for mapped, asked in zip(with_table, data.train_dataloader(), strict=True):
        for name, slots in mapped.extra_texts.items():
            assert torch.equal(slots.tokens, asked.extra_texts[name].tokens)
            assert torch.equal(slots.mask, asked.extra_texts[name].mask)
        assert same(mapped, asked) and mapped.text_numbers.shape == (4, 5)
        for one, other in zip(mapped.chunks[0].packed[:2], asked.chunks[0].packed[:2], strict=True):
            assert torch.equal(one, other)


def test_packed_texts_are_captions_negatives_and_further_texts(student, rich_folder):
    for batch in batches(folder(str(rich_folder)), student, needs=ALL, chunk_size=3)[:2]:
        further = [slots.tokens for slots in batch.extra_texts.values()]
        assert [(chunk.start, chunk.stop) for chunk in batch.chunks] == [(0, 3), (3, 4)]
        for start, stop, packed in batch.chunks:
            texts = torch.cat([batch.captions[start:stop], *batch.negatives[start:stop]])
            texts = torch.cat([texts, *(row for part in further for row in part[start:stop])])
            expected = student.tokenizer.pack(texts)
            assert torch.equal(packed.tokens, expected.tokens) and torch.equal(packed.texts, expected.texts)


# Of the batches of the code before further texts existed.
HASHES = {"first": "0e7949cd4422ad18", "random": "8e15fae204604a75", "one_per_type": "861da33ae3151b0c"}


@pytest.mark.parametrize("negatives", HASHES)
def test_batches_are_those_of_runs_before(student, photo_folder, negatives):
    """Order, crops, choices and tokens; instead of pixels, which depend on torch, a number of the crop's generator."""
    settings = {"negatives": negatives, "num_negatives": 2, "epochs": 2, "drop_last": False, "global_batch_size": 5}
    data = loaders(folder(str(photo_folder)), student, **settings)
    data.collate.transform = lambda image, rng: torch.full((3, 2, 2), int(256 * rng.random()), dtype=torch.uint8)
    content = []
    for batch in data.train_dataloader():
        pairs = zip(batch.samples, batch.slots, strict=True)
        texts = [[sample.caption, *(slot and slot.text for slot in slots)] for sample, slots in pairs]
        content.append([batch.images[:, 0, 0, 0].tolist(), texts, batch.captions.tolist(), batch.negatives.tolist()])
    assert hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16] == HASHES[negatives]


@pytest.mark.parametrize("negatives", ["first", "random", "one_per_type"])
def test_crops_and_choices_stay_the_same(student, rich_folder, photo_folder, negatives):
    settings = {"negatives": negatives, "num_negatives": 2, "epochs": 2}
    plain = batches(folder(str(rich_folder)), student, **settings)
    rich = batches(folder(str(rich_folder)), student, **settings, needs=ALL)
    assert len(plain) == 12 and all(same(*pair) for pair in zip(plain, rich, strict=True))
    for batch in plain:
        assert not batch.extra_texts and batch.negative_images is None and batch.image_ids is None


def test_without_need_for_negatives_there_are_none(student, photo_folder):
    data = loaders(folder(str(photo_folder)), student, needs=())
    batch = next(iter(data.train_dataloader()))
    assert batch.negatives.shape[:2] == (4, 0) and batch.negative_mask.shape == (4, 0)
    assert data.tokens.num_texts == 24 and batch.text_numbers.shape == (4, 1)
    assert not any(sample.negatives for sample in batch.samples) and not batch.problems
    with_negatives = next(iter(loaders(folder(str(photo_folder)), student).train_dataloader()))
    assert torch.equal(batch.images, with_negatives.images)


def test_columns_that_are_not_needed_are_not_read(student, rich_folder):
    source = folder(str(rich_folder))
    names = {"units", "paraphrases", "negative_images"}
    assert names <= set(source.dataset.column_names)
    for needs in ((), ("negatives",), ("negatives", "units"), ("paraphrases",), ("unfiltered_negatives",)):
        table = source.reading(needs)
        assert names & set(table.dataset.column_names) == names & set(needs)
        assert ("negatives" in table.dataset.column_names) == bool({"negatives", "unfiltered_negatives"} & set(needs))
        sample = table.samples([3])[0]
        assert bool(sample.units) == ("units" in needs) and not sample.negative_images
    texts = {needs: loaders(source, student, needs=needs).tokens.num_texts for needs in ((), ("units",), ALL)}
    assert texts == {(): 24, ("units",): 24 * 5, ALL: 24 * (1 + 5 + 4 + 3)}


def test_a_table_without_optional_columns_is_as_before(photo_folder):
    """Its columns decide the identity of the data, without which no run could be resumed."""
    source = folder(str(photo_folder))
    names = ["id", "image", "caption", "negatives", "hard_image_rows", "problem"]
    assert source.dataset.column_names == names
    assert identify_data(source) == ("442899a9c0062060", 24)


def test_unfiltered_negatives_are_the_entries_as_they_stand(student, photo_folder):
    lines = [json.loads(line) for line in (photo_folder / "captions.jsonl").read_text().splitlines()]
    for line in lines:
        line["negatives"] = ["one", line["caption"].upper(), "", "two", "three"]
    write(photo_folder, lines)
    batch = batches(folder(str(photo_folder)), student, needs=("unfiltered_negatives",))[0]
    assert batch.negative_mask.all() and not batch.problems
    for sample, slots in zip(batch.samples, batch.slots, strict=True):
        assert [slot.text for slot in slots] == ["one", sample.caption.upper(), "", "two"]
    filtered = batches(folder(str(photo_folder)), student)[0]
    assert [[slot and slot.text for slot in slots] for slots in filtered.slots] == [["one", "two", "three", None]] * 4
    in_place = batches(folder(str(photo_folder)), student, negatives="in_place")[0]
    assert [[slot and slot.text for slot in slots] for slots in in_place.slots] == [["one", None, None, "two"]] * 4
    assert {problem.reason for problem in in_place.problems} == {
        "dropped 1 negative(s) that are empty or equal to the caption"
    }
    assert torch.equal(in_place.captions, filtered.captions) and torch.equal(in_place.images, filtered.images)


def test_one_random_negative_a_step(student, photo_folder):
    """NegCLIP draws one of its negatives at random in each step."""
    settings = {"negatives": "random", "num_negatives": 1, "epochs": 50}
    drawn = Counter()
    for batch in batches(folder(str(photo_folder)), student, **settings):
        assert batch.negatives.shape[1] == 1 and batch.negative_mask.all()
        drawn.update(slots[0].type for slots in batch.slots)
    assert sum(drawn.values()) == 1200 and len(drawn) == 5
    assert all(180 < count < 300 for count in drawn.values())  # 240 each; 4 standard deviations are 55


def test_choices_change_with_the_pass_and_can_be_repeated(student, rich_folder):
    settings = {"needs": ALL, "epochs": 20, "num_units": 1, "negatives": "random"}
    data = loaders(folder(str(rich_folder)), student, **settings)
    whole = list(data.train_dataloader())
    drawn = {name: {} for name in ("units", "paraphrases")}
    for batch in whole:
        for number, sample in enumerate(batch.samples):
            for name, counts in drawn.items():
                text = decoded(student, batch.extra_texts[name].tokens[number])[0]
                counts.setdefault(sample.id, Counter())[text] += 1
    assert {len(counts) for counts in drawn["units"].values()} == {2}
    assert {len(counts) for counts in drawn["paraphrases"].values()} == {3}
    resumed = data._loader(data.train_dataloader().dataset, batch_sampler=data._sampler(start=60))
    for one, other in zip(whole[60:], resumed, strict=True):
        assert same(one, other) and torch.equal(one.negative_images, other.negative_images)
        for name in one.extra_texts:
            assert torch.equal(one.extra_texts[name].tokens, other.extra_texts[name].tokens)


def test_the_first_units_are_used_where_the_first_negatives_are(student, rich_folder):
    for batch in batches(folder(str(rich_folder)), student, needs=("units",), num_units=1, epochs=3):
        for number, sample in enumerate(batch.samples):
            assert decoded(student, batch.extra_texts["units"].tokens[number]) == [sample.units[0].text]


def test_what_a_sample_lacks_leaves_its_mask_empty_and_is_reported(student, rich_folder):
    lines = [json.loads(line) for line in (rich_folder / "captions.jsonl").read_text().splitlines()][::2]
    lines[0] |= {"units": [{"text": "same", "foil": "Same "}], "paraphrases": [], "negative_images": []}
    lines[1] |= {"units": None, "paraphrases": [lines[1]["caption"].upper()], "negative_images": ["no/such.jpg"]}
    (rich_folder / "images/bad.jpg").write_bytes(b"<html>404</html>")
    lines[2] |= {"negative_images": ["images/bad.jpg"]}
    write(rich_folder, lines[:4])
    batch = batches(folder(str(rich_folder)), student, needs=ALL)[0]
    by_id = {sample.id: number for number, sample in enumerate(batch.samples)}
    order = [by_id[f"captions.jsonl:{line}"] for line in (1, 2, 3, 4)]
    masks = {name: slots.mask[order][:, 0].tolist() for name, slots in batch.extra_texts.items()}
    assert masks == {
        "units": [False, False, True, True],
        "foils": [False, False, True, True],
        "paraphrases": [False, False, True, True],
        "second_captions": [False] * 4,  # one row an image is left
    }
    assert batch.negative_image_mask[order].tolist() == [False, False, False, True]
    assert not batch.negative_images[~batch.negative_image_mask].any()
    reasons = {row: [] for row in by_id}
    for problem in batch.problems:
        assert not problem.skipped
        reasons[problem.row].append(problem.reason)
    assert [reason.split(":")[0] for reason in reasons["captions.jsonl:1"]] == [
        *("no negative image", "dropped 1 unit(s) that are empty or equal to their foil"),
        *("no units", "no paraphrase", "no second caption"),
    ]
    assert "negative image: no such file" in reasons["captions.jsonl:2"][0]
    assert reasons["captions.jsonl:3"][0].startswith("negative image: not an image that can be read (HTML")
    empty = student.tokenizer([""])[0]
    assert torch.equal(batch.extra_texts["paraphrases"].tokens[order[0], 0, : len(empty)], empty)


def test_second_captions_come_from_the_training_rows_of_the_image(student, photo_folder):
    lines = [json.loads(line) for line in (photo_folder / "captions.jsonl").read_text().splitlines()]
    extra = [{**line, "caption": f"third caption of {line['image']}"} for line in lines[::2]]
    write(photo_folder, lines + extra)
    seen = {}
    for batch in batches(folder(str(photo_folder)), student, needs=("second_captions",), epochs=14):
        assert batch.extra_texts["second_captions"].mask.all()
        for number, sample in enumerate(batch.samples):
            text = decoded(student, batch.extra_texts["second_captions"].tokens[number])[0]
            assert text != sample.caption.lower()
            seen.setdefault((sample.image_path, sample.id), set()).add(text)
    assert all(len(texts) == 2 for texts in seen.values()) and len(seen) == 36


def test_second_captions_of_a_list(student, photo_folder):
    lines = [json.loads(line) for line in (photo_folder / "captions.jsonl").read_text().splitlines()][::2]
    for line in lines:
        line["captions"] = [line["caption"], line["caption"].upper(), "b", "c"]
    write(photo_folder, lines)
    source = folder(str(photo_folder))
    drawn = Counter()
    for batch in batches(source, student, needs=("second_captions",), epochs=20):
        assert [sample.caption for sample in batch.samples] == [sample.captions[0] for sample in batch.samples]
        drawn.update(decoded(student, batch.extra_texts["second_captions"].tokens[:, 0]))
    assert set(drawn) == {"b", "c"} and min(drawn.values()) > 80
    assert source.reading(("negatives",)).samples([0])[0].captions == ()


def test_a_stream_has_them_too(student, rich_folder, tmp_path):
    rows = [json.loads(line) for line in (rich_folder / "captions.jsonl").read_text().splitlines()]
    for row in rows:
        row["image"] = str(rich_folder / row["image"])
        row["negative_images"] = [str(rich_folder / path) for path in row["negative_images"]]
        row["caption"] = [row["caption"], "a second caption"]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    keys = {"data_files": str(tmp_path / "rows.jsonl"), "cache_dir": str(tmp_path / "cache")}
    columns = {name: name for name in ("units", "paraphrases", "negative_images")}
    for streaming in (False, True):
        source = huggingface("json", **keys, **columns, streaming=streaming)
        batch = next(iter(loaders(source, student, needs=ALL).train_dataloader()))
        assert all(slots.mask[:, 0].all() for slots in batch.extra_texts.values()) and batch.negative_image_mask.all()
        assert decoded(student, batch.extra_texts["second_captions"].tokens[:, 0]) == ["a second caption"] * 4
        batch = next(iter(loaders(source, student).train_dataloader()))
        assert not batch.extra_texts and not batch.samples[0].units and batch.samples[0].negatives


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_give_the_same(student, rich_folder, workers):
    reference = batches(folder(str(rich_folder)), student, needs=ALL, seed=3)
    found = batches(folder(str(rich_folder)), student, needs=ALL, seed=3, num_workers=workers)
    for one, other in zip(reference, found, strict=True):
        assert same(one, other) and one.samples == other.samples and torch.equal(one.text_ids, other.text_ids)
        assert torch.equal(one.negative_images, other.negative_images)


def test_ids_ignore_case_and_spaces_and_fit_63_bits():
    assert text_id("A  Dog\n") == text_id("a dog") != text_id("a dog.")
    assert all(0 <= text_id(f"caption {i}") < 2**63 for i in range(1000))
    assert text_id("a dog") == 9_151_722_581_430_185_315  # equal in every process, run and release


def test_similar_images_have_further_texts(student, rich_folder):
    """``hard_images`` adds rows, which are read in the same way."""
    source = folder(str(rich_folder))
    data = loaders(source, student, needs=("units", "second_captions"), hard_images=True)
    plain = data.train_source.to_sample
    data.train_source.to_sample = lambda record, i: plain(record, i)._replace(hard_image_rows=[(i + 2) % 24])
    batch = next(iter(data.train_dataloader()))
    assert len(batch.samples) == 8 and batch.extra_texts["second_captions"].mask.all()


GOOD = {"image": "x.jpg", "caption": "a dog"}
COLUMNS = {
    "a list of objects": ({"units": UNITS}, {"units": [Unit(**unit) for unit in UNITS]}),
    "an object of lists": (
        {"units": {"text": ["a", "b"], "foil": ["c", "d"]}},
        {"units": [Unit("a", "c"), Unit("b", "d")]},
    ),
    "JSON in a text": ({"units": json.dumps(UNITS)}, {"units": [Unit(**unit) for unit in UNITS]}),
    "a list of paraphrases": ({"paraphrases": ["p", None, " ", "q"]}, {"paraphrases": ["p", "q"]}),
    "one paraphrase": ({"paraphrase": "p"}, {"paraphrases": ["p"]}),
    "numbered paraphrases": ({"paraphrase_10": "k", "paraphrase_2": "b"}, {"paraphrases": ["b", "k"]}),
    "a Python list": ({"paraphrases": "['p', \"q's\"]"}, {"paraphrases": ["p", "q's"]}),
    "captions": ({"captions": ["a dog", "b", "b"]}, {"captions": ("a dog", "b")}),
    "a path": ({"negative_images": "n.jpg"}, {"negative_images": [StoredImage(None, "n.jpg")]}),
    "paths": ({"negative_image_2": "n.jpg", "negative_image": "m.jpg"},
              {"negative_images": [StoredImage(None, "m.jpg"), StoredImage(None, "n.jpg")]}),
    "paths as JSON": ({"negative_images": '["n.jpg"]'}, {"negative_images": [StoredImage(None, "n.jpg")]}),
    "nothing": ({"units": None, "paraphrases": "", "negative_images": [], "captions": None}, {}),
}  # fmt: skip


def read(root, record):
    """The sample of one record, as JSON lines, CSV (where a list is JSON) and Parquet read it."""
    (root / "t.jsonl").write_text(json.dumps(GOOD | record) + "\n" + json.dumps(GOOD))
    pq.write_table(pa.Table.from_pylist([GOOD | record, GOOD | dict.fromkeys(record)]), root / "t.parquet")
    flat = {key: json.dumps(value) if isinstance(value, list | dict) else value for key, value in record.items()}
    with (root / "t.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, GOOD | flat)
        writer.writeheader()
        writer.writerows([GOOD | flat, GOOD])
    return {name: folder(str(root), name).samples([0, 1]) for name in ("t.jsonl", "t.csv", "t.parquet")}


@pytest.mark.parametrize("case", COLUMNS)
def test_columns_in_every_shape_and_file(tmp_path, case):
    record, expected = COLUMNS[case]
    images = [StoredImage(None, str(tmp_path / image.image_path)) for image in expected.get("negative_images", ())]
    for name, (sample, plain) in read(tmp_path, record).items():
        assert not sample.problem and not plain.problem, name
        assert sample.units == expected.get("units", []) and sample.paraphrases == expected.get("paraphrases", []), name
        assert sample.captions == expected.get("captions", ()) and sample.negative_images == images, name


BAD = {
    "units are the value 7": {"units": 7},
    "units is not a JSON list": {"units": "a black dog"},
    "a unit is the text 'a'": {"units": ["a"]},
    "a unit is an object with the keys text": {"units": [{"text": "a"}]},
    "the foil of a unit is missing": {"units": [{"text": "a", "foil": None}]},
    "the text of a unit is not valid Unicode": {"units": [{"text": "\ud800", "foil": "b"}]},
    "units are 2 texts and 1 foils": {"units": {"text": ["a", "b"], "foil": ["c"]}},
    "paraphrases is the value 7": {"paraphrases": 7},
    "paraphrases is not a JSON list": {"paraphrases": '["a", "b'},
    "paraphrases holds the value 3": {"paraphrases": ["a", 3]},
    "paraphrase_2 holds the value 3": {"paraphrase_2": [3]},
    "captions is an object": {"captions": {"raw": "b"}},
    "negative_images holds the value 3": {"negative_images": [3]},
    "negative_images holds an object": {"negative_images": [{"url": "x"}]},
    "negative_images is the value 3": {"negative_images": 3},
    "negative_images is JSON that is nested too deeply": {"negative_images": "[" * 100_000 + "]" * 100_000},
}


@pytest.mark.parametrize("problem", BAD)
def test_what_does_not_fit_is_a_named_problem(tmp_path, problem):
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in (GOOD, GOOD | BAD[problem], GOOD)))
    samples = folder(str(tmp_path)).samples([0, 1, 2])
    assert [bool(sample.problem) for sample in samples] == [False, True, False]
    assert samples[1].id == "t.jsonl:2" and samples[1].problem.startswith(problem)


def test_parquet_may_hold_negative_images(student, photo_folder):
    photo = (photo_folder / "images/3.jpg").read_bytes()
    rows = [{"image": photo, "caption": f"a {i}", "negative_images": [photo, photo]} for i in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), photo_folder / "t.parquet")
    source = folder(str(photo_folder), "t.parquet")
    assert source.samples([0])[0].negative_images == [StoredImage(photo, None)] * 2
    assert source.texts([0])[0].negative_images == [] and source.image_columns == ["image", "negative_images"]
    batch = batches(source, student, needs=("negative_images",))[0]
    assert batch.negative_image_mask.all() and not any(sample.negative_images for sample in batch.samples)
    one = TrainTransform((64, 64), (0.9, 1.0))
    collate = Collate(one, student.tokenizer, 1, "first", needs=("negative_images",))
    again = collate([(source.samples([0])[0], Draw(0, "x"))])
    assert not torch.equal(again.images, again.negative_images)  # the same file, with a crop of its own


def test_hub_columns_are_named_by_keys(student, photo_folder, tmp_path):
    photo = {"bytes": (photo_folder / "images/0.jpg").read_bytes(), "path": None}
    table = datasets.Dataset.from_dict(
        {
            "image": [photo] * 4,
            "caption": ["a", "b", "c", "d"],
            "parts": [UNITS] * 4,
            "wordings": ["p"] * 4,
            "others": [["e", "f"]] * 4,
            "wrong": [[photo]] * 4,
        }
    )
    table = table.cast_column("image", datasets.Image()).cast_column("wrong", datasets.List(datasets.Image()))
    table.to_parquet(tmp_path / "t.parquet")
    files = {"data_files": str(tmp_path / "t.parquet"), "cache_dir": str(tmp_path / "cache"), "negatives": None}
    keys = {"units": "parts", "paraphrases": "wordings", "further_captions": "others", "negative_images": "wrong"}
    source = huggingface("parquet", **files, **keys)
    sample = source.samples([1])[0]
    assert sample.units == [Unit(**unit) for unit in UNITS] and sample.paraphrases == ["p"]
    assert sample.captions == ("b", "e", "f") and sample.negative_images == [StoredImage(photo["bytes"], None)]
    assert source.image_columns == ["image", "wrong"] and not source.texts([1])[0].negative_images
    assert source.reading(("units",)).dataset.column_names == ["image", "caption", "parts"]
    batch = batches(source, student, needs=ALL)[0]
    assert all(slots.mask[:, 0].all() for slots in batch.extra_texts.values())
    assert huggingface("parquet", **files).samples([0])[0].units == []
    with pytest.raises(ConfigError, match=r"data.units=others of parquet holds lists of string, not objects of text"):
        huggingface("parquet", **files, units="others")
    with pytest.raises(ConfigError, match=r"data.paraphrases=wrong of parquet holds lists of Image, not text: set"):
        huggingface("parquet", **files, paraphrases="wrong")
    with pytest.raises(ConfigError, match=r"data.units=no is not a column of parquet: set data.units to one of"):
        huggingface("parquet", **files, units="no")


REFUSALS = {
    "units": r"has units, .*column units of \{text, foil\}.*degla-negatives kinds=\[unit_foil\]",
    "paraphrases": r"has a paraphrase, .*column paraphrases .*degla-negatives",
    "second_captions": r"has a second caption, .*column captions .*data.further_captions",
    "negative_images": r"has a negative image, .*column negative_images",
}


@pytest.mark.parametrize("need", REFUSALS)
def test_data_without_a_needed_column_are_refused(photo_folder, need):
    lines = [json.loads(line) for line in (photo_folder / "captions.jsonl").read_text().splitlines()][::2]
    write(photo_folder, lines)
    source = folder(str(photo_folder))
    with pytest.raises(DataError, match=REFUSALS[need]) as refusal:
        refuse_missing_columns(source, ("negatives", need))
    assert "\n" not in str(refusal.value) and "none of the 12 samples" in str(refusal.value)
    refuse_missing_columns(source, ("negatives", "identity", "teacher"))


def test_data_with_the_columns_are_not_refused(rich_folder):
    refuse_missing_columns(folder(str(rich_folder)), ALL)  # second captions are other rows of the image


def test_one_row_with_units_is_enough_where_it_is_checked(photo_folder):
    lines = [json.loads(line) for line in (photo_folder / "captions.jsonl").read_text().splitlines()]
    lines[17]["units"] = UNITS
    write(photo_folder, lines)
    refuse_missing_columns(folder(str(photo_folder)), ("units",))


def test_negatives_of_a_sample_are_not_touched_by_further_columns(rich_folder):
    sample = folder(str(rich_folder)).samples([0])[0]
    assert sample.negatives[0] == Negative("not 0 0 reshuffle_order", "reshuffle_order") and len(sample.negatives) == 5
