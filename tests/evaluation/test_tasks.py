"""Every benchmark on made-up files in its official layout, against slow loops over its own definition."""

import hashlib
import io
import json
import pickle
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets as tv

from degla.errors import ConfigError
from degla.evaluation.class_names import class_indices, wording
from degla.evaluation.labelled import DATASETS
from degla.evaluation.perturbations import cleaned, perturbed
from degla.evaluation.statistics import point_estimates
from degla.evaluation.tasks.aro import Aro
from degla.evaluation.tasks.half_truths import HalfTruths
from degla.evaluation.tasks.own import Own
from degla.evaluation.tasks.retrieval import Retrieval, _chance
from degla.evaluation.tasks.sugarcrepe import SugarCrepe
from degla.evaluation.tasks.sugarcrepe_pp import SugarCrepePP
from degla.evaluation.tasks.valse import Valse
from degla.evaluation.tasks.whatsup import WhatsUp
from degla.evaluation.tasks.winoground import Winoground
from degla.evaluation.tasks.zeroshot import ZeroShot
from tests.helpers.benchmarks import RandomFeatures, sentence, sugarcrepe, write_image, write_json, write_parquet

FEATURES = RandomFeatures()


def by_loop(task):
    """Return the correct answers of a choice task, one pair at a time."""
    return [
        all(FEATURES.score(c.image, c.captions[0]) > FEATURES.score(c.image, wrong) for wrong in c.captions[1:])
        for c in task.choices
    ]


def test_sugarcrepe_and_what_is_missing(tmp_path):
    sugarcrepe(tmp_path, ["swap_obj", "swap_att"])
    task = SugarCrepe(
        annotations=str(tmp_path / "sugarcrepe"),
        images=str(tmp_path / "coco/val2017"),
        subsets=["swap_obj", "swap_att"],
    )
    found = task.outcomes(FEATURES)
    assert [outcome.correct for outcome in found] == by_loop(task) and len(found) == 10
    assert 0 < sum(outcome.correct for outcome in found) < 10
    assert [outcome.item for outcome in found[:5]] == ["0", "1", "3", "4", "5"]
    _, means = point_estimates(task, found)
    assert set(means) == {"swap", "average", "micro"}
    left = task.outcomes(RandomFeatures(missing=["000000000001.jpg"]))
    assert len(left) == 6 and "000000000001.jpg" not in {Path(outcome.image).name for outcome in left}
    with pytest.raises(ConfigError, match=r"no file .*add_att\.json.*github\.com/RAIVNLab/sugar-crepe"):
        SugarCrepe(annotations=str(tmp_path / "sugarcrepe")).list_images()
    with pytest.raises(ConfigError, match="there is no subset swap_objects of sugarcrepe: choose among add_att"):
        SugarCrepe(subsets=["swap_objects"])
    rows = SugarCrepe(annotations=str(tmp_path / "sugarcrepe"), images=str(tmp_path)).survey()
    assert [row.num_items for row in rows] == [0, 0, 0, 0, 0, 5, 5] and rows[5].num_found == 0


def test_sugarcrepe_from_the_hub(tmp_path):
    rows = [
        {"image": write_image(tmp_path / f"{i}.png"), "tested_labels": [f"right {i}", f"wrong {i}"]} for i in range(3)
    ]
    write_parquet(tmp_path / "SugarCrepe_swap_obj" / "data" / "test-00000-of-00001.parquet", rows, ["image"])
    task = SugarCrepe(hub=str(tmp_path), subsets=["swap_obj"])
    assert [choice.captions for choice in task.choices] == [(f"right {i}", f"wrong {i}") for i in range(3)]
    assert task.choices[0].image.load().shape == (3, 30, 40)
    assert len(task.protocol()["data"]) == 1
    with pytest.raises(ConfigError, match="SugarCrepe_swap_att cannot be read"):
        SugarCrepe(hub=str(tmp_path), subsets=["swap_att"]).list_images()


@pytest.mark.parametrize(
    ("file", "is_list"), [("swap_atribute", True), ("swap_attribute", True), ("swap_att", True), ("swap_att", False)]
)
def test_sugarcrepe_pp_by_its_definition(tmp_path, file, is_list):
    rng = random.Random(0)
    items = [
        {"id": i, "filename": f"{i}.jpg", **{k: sentence(rng) for k in ("caption", "caption2", "negative_caption")}}
        for i in range(40)
    ]
    write_json(tmp_path / f"{file}.json", items if is_list else {str(item["id"]): item for item in items})
    task = SugarCrepePP(annotations=str(tmp_path), images="x", subsets=["swap_att/itt", "swap_att/tot"])
    found = {(outcome.subset, outcome.item): outcome.correct for outcome in task.outcomes(FEATURES)}
    for item in items:
        one, two, wrong = (item[k] for k in ("caption", "caption2", "negative_caption"))
        image = next(p for p in task.list_images() if p.path.endswith(f"/{item['id']}.jpg"))
        s = FEATURES.score
        assert found["swap_att/itt", str(item["id"])] == (s(image, one) > s(image, wrong) < s(image, two))
        assert found["swap_att/tot", str(item["id"])] == (s(one, two) > max(s(one, wrong), s(two, wrong)))
    assert 0 < sum(found.values()) < 80
    assert {row.part: row.num_items for row in task.survey()} == {"swap_att": 40}


def test_aro_macro_leaves_out_what_the_paper_leaves_out(tmp_path):
    rng = random.Random(1)
    box = {"bbox_x": 1, "bbox_y": 2, "bbox_w": 20, "bbox_h": 10, "image_path": "7.jpg"}

    def item(i, **more):
        return {**box, "true_caption": f"{sentence(rng)} {i}", "false_caption": f"{sentence(rng)} not {i}", **more}

    relations = ["behind", "wearing", "next to"]  # the last holds both ways round
    write_json(
        tmp_path / "visual_genome_relation.json", [item(i, relation_name=relations[i % 3 % 3]) for i in range(60)]
    )
    pairs = [["red", "big"]] * 30 + [["big", "red"]] * 25 + [["old", "new"]] * 24
    write_json(tmp_path / "visual_genome_attribution.json", [item(f"a{i}", attributes=p) for i, p in enumerate(pairs)])
    write_image(tmp_path / "images" / "7.jpg")
    task = Aro(annotations=str(tmp_path), images=str(tmp_path / "images"), subsets=["relation", "attribution"])
    found = task.outcomes(FEATURES)
    rights = by_loop(task)
    assert [outcome.correct for outcome in found] == rights
    assert task.choices[0].image.load().shape == (3, 10, 20)
    subsets, means = point_estimates(task, found)

    def rate(keep):
        kept = [right for right, k in zip(rights, keep, strict=True) if k]
        return sum(kept) / len(kept)

    per_relation = [rate([i < 60 and i % 3 == r for i in range(139)]) for r in (0, 1)]
    assert subsets["relation"] == pytest.approx(sum(per_relation) / 2)
    per_pair = [rate([60 <= i < 90 for i in range(139)]), rate([90 <= i < 115 for i in range(139)])]
    assert subsets["attribution"] == pytest.approx(sum(per_pair) / 2)
    assert means["average"] == pytest.approx((subsets["relation"] + subsets["attribution"]) / 2)


def test_aro_order_freezes_its_captions_and_its_own_rule_wins_ties(tmp_path):
    captions = ["A dog.", "A small dog chases two black cats, near the red house."]
    write_json(
        tmp_path / "flickr30k" / "flickr30k_test.json", [{"image": "flickr30k-images/1.jpg", "caption": captions}]
    )

    def task(**arguments):
        return Aro(
            annotations=str(tmp_path / "aro"),
            flickr30k=str(tmp_path / "flickr30k"),
            subsets=["flickr30k_order"],
            **arguments,
        )

    first, second = task(), task()
    assert [choice.captions for choice in first.choices] == [choice.captions for choice in second.choices]
    assert first.choices[1].captions[0] == "a small dog chases two black cats, near the red house"
    assert first.protocol()["tagger"] and first.protocol() == second.protocol()
    # "a dog" can hardly be shuffled: the same text is a tie.
    ours, theirs = first.outcomes(FEATURES)[0], task(ties="original").outcomes(FEATURES)[0]
    assert ours.tie and not ours.correct
    assert theirs.correct or not theirs.tie
    assert json.loads((tmp_path / "aro" / "flickr30k_order.json").read_text())["seed"] == 1


def test_orders_by_hand():
    def tag(text):
        tokens = text.split()
        kinds = {"cat": "noun", "dog": "noun", "red": "adjective", "big": "adjective"}
        return tokens, [kinds.get(token, "other") for token in tokens]

    caption = "the red cat sees a big dog now"
    both, others, within, between = perturbed(caption, random.Random(3), tag, str.split)
    for spoilt in (both, others, within, between):
        assert sorted(spoilt.split()) == sorted(caption.split())
    assert [word for word in both.split() if word in ("the", "sees", "a", "now")] == ["the", "sees", "a", "now"]
    assert [word for word in others.split() if word in ("red", "cat", "big", "dog")] == ["red", "cat", "big", "dog"]
    threes = [caption.split()[i : i + 3] for i in (0, 3, 6)]
    assert [sorted(within.split()[i : i + 3]) for i in (0, 3, 6)] == [sorted(three) for three in threes]
    assert all(" ".join(three) in between for three in threes)
    assert cleaned('A "dog", (big): runs!\n') == "a dog , big runs"
    assert len(cleaned("a " * 50).split()) == 30


def test_valse_folders_and_votes(tmp_path):
    names = [
        "COCO_train2014_1.jpg",
        "COCO_val2014_2.jpg",
        "VisualDialog_val2018_3.jpg",
        "v7w_4.jpg",
        "000000000005.jpg",
    ]
    names += ["jumping_6.jpg", "COCO_val2014_2.jpg"]
    items = {
        f"id{i}": {"image_file": name, "caption": f"c{i}", "foil": f"f{i}", "mturk": {"caption": 3 - i // 6 * 2}}
        for i, name in enumerate(names)
    }
    write_json(tmp_path / "coreference-standard.json", items)
    sources = ("coco_train2014", "coco_val2014", "visdial", "visual7w", "coco_val2017", "swig")
    task = Valse(annotations=str(tmp_path), images={s: f"/{s}" for s in sources}, subsets=["coreference-standard"])
    assert [choice.image.path.split("/")[1] for choice in task.choices] == list(sources)  # the last has one vote
    found = task.outcomes(FEATURES)
    assert [outcome.correct for outcome in found[:6]] == by_loop(task)
    assert [outcome.subset for outcome in found[6:]] == ["coreference-standard-unseen"] * 5


def test_winoground_by_its_definition(tmp_path):
    rng = random.Random(2)
    rows = [
        {
            "id": i,
            **{f"image_{k}": write_image(tmp_path / f"{i}_{k}.png") for k in (0, 1)},
            **{f"caption_{k}": sentence(rng) for k in (0, 1)},
        }
        for i in range(30)
    ]
    write_parquet(tmp_path / "hub" / "test.parquet", [dict(row) for row in rows], ["image_0", "image_1"])
    task = Winoground(hub=str(tmp_path / "hub"))
    found = {(outcome.subset, outcome.item): outcome.correct for outcome in task.outcomes(FEATURES)}
    for row in task.items:
        s = {(c, i): FEATURES.score(row.images[i], row.captions[c]) for c in (0, 1) for i in (0, 1)}
        text = s[0, 0] > s[1, 0] and s[1, 1] > s[0, 1]
        image = s[0, 0] > s[0, 1] and s[1, 1] > s[1, 0]
        item = row.item
        assert (found["text", item], found["image", item], found["group", item]) == (text, image, text and image)
    assert 0 < sum(found.values()) < 90


def test_half_truths_from_parquet_and_lines(tmp_path):
    rows = [
        {
            "id": f"h{i}",
            "image": write_image(tmp_path / f"{i}.png"),
            "anchor": f"a dog {i}",
            "half_truth": f"a dog {i} under a tree",
            "triplet_type": "entity" if i % 2 else "relation",
        }
        for i in range(6)
    ]
    write_parquet(tmp_path / "coco_qwen.parquet", [dict(row) for row in rows], ["image"])
    lines = [json.dumps(row | {"image": f"{i}.png"}) for i, row in enumerate(rows)]
    (tmp_path / "coco_mistral.jsonl").write_text("\n".join(lines))
    task = HalfTruths(hub=str(tmp_path), images=str(tmp_path), subsets=["coco_qwen", "coco_mistral"])
    found = task.outcomes(FEATURES)
    assert [outcome.correct for outcome in found] == by_loop(task)
    assert [outcome.group for outcome in found[:2]] == ["relation", "entity"]
    assert task.choices[0].image.load().equal(task.choices[6].image.load())


def test_whatsup_pairs_and_sets(tmp_path):
    items = []
    for thing in ("mug", "cap"):
        for relation in ("left_of", "right_of", "on", "under"):
            words = {"left_of": "left of", "right_of": "right of"}.get(relation, relation)
            others = [w for w in ("left of", "right of", "on", "under") if w != words]
            items.append(
                {
                    "image_path": f"data/controlled_images/{thing}_{relation}_table.jpeg",
                    "caption_options": [f"A {thing} {w} a table" for w in (words, *others)],
                }
            )
    write_json(tmp_path / "controlled_images_dataset.json", items)
    write_json(tmp_path / "coco_qa_one_obj.json", [[139, "a dog on the left", "a dog on the right"]])
    task = WhatsUp(annotations=str(tmp_path), coco_val2017="/coco", subsets=["controlled_a", "coco_one"])
    found = task.outcomes(FEATURES)
    single = by_loop(task)
    assert [outcome.correct for outcome in found[:9]] == single and task.choices[
        8
    ].image.path == "/coco/000000000139.jpg"
    pairs = [outcome for outcome in found if outcome.subset == "controlled_a/pairs"]
    sets = [outcome for outcome in found if outcome.subset == "controlled_a/sets"]
    assert [outcome.correct for outcome in pairs] == [single[i] and single[i + 1] for i in (0, 2, 4, 6)]
    assert [outcome.correct for outcome in sets] == [all(single[:4]), all(single[4:8])]
    assert [pair.item for pair in pairs] == ["mug_table_left_right", "mug_table_on_under",
                                             "cap_table_left_right", "cap_table_on_under"]  # fmt: skip
    assert sets[0].chance == pytest.approx(0.25**4) and pairs[0].chance == pytest.approx(0.25**2)


@pytest.mark.parametrize("form", ["blip", "karpathy", "csv"])
def test_retrieval_by_image_id(tmp_path, form):
    rng = random.Random(4)
    captions = {f"{i}.jpg": [sentence(rng) for _ in range(2 + i % 2)] for i in range(12)}
    file = tmp_path / {"blip": "t.json", "karpathy": "dataset.json", "csv": "captions.txt"}[form]
    if form == "blip":
        write_json(file, [{"image": name, "caption": texts} for name, texts in captions.items()])
    elif form == "karpathy":
        images = [
            {"filename": n, "split": "test", "sentences": [{"raw": t} for t in texts]} for n, texts in captions.items()
        ]
        write_json(file, {"images": [*images, {"filename": "x.jpg", "split": "train", "sentences": []}]})
    else:
        file.write_text("image,caption\n" + "".join(f'{n},"{t}"\n' for n, texts in captions.items() for t in texts))
    task = Retrieval(str(file), str(tmp_path), ks=[1, 3])
    found = {(outcome.subset, outcome.item): outcome.correct for outcome in task.outcomes(FEATURES)}
    images = {name: image for name, image, _ in task.captioned}
    everything = [(name, text) for name, texts in captions.items() for text in texts]
    for name, image in images.items():
        ranked = sorted(everything, key=lambda pair: -FEATURES.score(image, pair[1]))
        for k in (1, 3):
            assert found[f"image_to_text_r@{k}", name] == any(owner == name for owner, _ in ranked[:k])
    for name, n in ((name, n) for name, texts in captions.items() for n in range(len(texts))):
        text = captions[name][n]
        ranked = sorted(images, key=lambda other: -FEATURES.score(images[other], text))
        for k in (1, 3):
            assert found[f"text_to_image_r@{k}", f"{name} {n}"] == (name in ranked[:k])
    without = task.outcomes(RandomFeatures(missing=["3.jpg"]))
    assert len(without) == 2 * (11 + len(everything) - len(captions["3.jpg"]))
    assert task.protocol()["num_captions"] == len(everything)


def test_chance_of_recall():
    rng = random.Random(5)
    met = [any(i < 3 for i in rng.sample(range(12), 4)) for _ in range(20000)]
    assert _chance(4, 3, 12) == pytest.approx(sum(met) / len(met), abs=0.01)
    assert _chance(5, 1, 5) == 1 == _chance(9, 1, 5) and _chance(1, 1, 4) == 0.25


def test_an_image_named_twice_is_reported(tmp_path):
    write_json(tmp_path / "t.json", [{"image": "1.jpg", "caption": [c]} for c in ("a", "b")])
    task = Retrieval(str(tmp_path / "t.json"), str(tmp_path))
    assert [(name, captions) for name, _, captions in task.captioned] == [("1.jpg", ["a", "b"])]
    assert task.problems[0].row == "1.jpg" and "named twice" in task.problems[0].reason
    write_json(tmp_path / "bad.json", [{"image": "1.jpg"}])
    with pytest.raises(ConfigError, match=r"bad\.json has none of the layouts"):
        _ = Retrieval(str(tmp_path / "bad.json"), str(tmp_path)).captioned


LAYOUTS = {
    "dtd": (["dtd/dtd/images/banded/b1.jpg", "dtd/dtd/images/polka-dotted/p1.jpg"],
            {"dtd/dtd/labels/test1.txt": "banded/b1.jpg\npolka-dotted/p1.jpg\n"}, ["banded", "polka-dotted"]),
    "food101": (["food-101/images/apple_pie/1.jpg", "food-101/images/ice_cream/2.jpg"],
                {"food-101/meta/test.json": '{"apple_pie": ["apple_pie/1"], "ice_cream": ["ice_cream/2"]}'},
                ["apple pie", "ice cream"]),
    "pets": (["oxford-iiit-pet/images/Abyssinian_1.jpg", "oxford-iiit-pet/images/american_bulldog_2.jpg"],
             {"oxford-iiit-pet/annotations/test.txt": "Abyssinian_1 1 1 1\namerican_bulldog_2 2 2 1\n"},
             ["Abyssinian", "American Bulldog"]),
    "sun397": (["SUN397/a/abbey/sun_1.jpg", "SUN397/a/apartment_building/outdoor/sun_2.jpg"],
               {"SUN397/ClassName.txt": "/a/abbey\n/a/apartment_building/outdoor\n"},
               ["abbey", "apartment building outdoor"]),
    "caltech101": (["caltech101/101_ObjectCategories/accordion/image_0001.jpg",
                    "caltech101/101_ObjectCategories/wild_cat/image_0001.jpg"],
                   {"caltech101/101_ObjectCategories/BACKGROUND_Google/readme": ""}, ["accordion", "wild cat"]),
}  # fmt: skip


def cars(root):
    """As torchvision reads it: MATLAB's files."""
    from scipy.io import savemat

    for i in range(2):
        write_image(root / f"stanford_cars/cars_test/{i}.jpg")
    (root / "stanford_cars/devkit").mkdir()
    savemat(
        root / "stanford_cars/devkit/cars_meta.mat",
        {"class_names": np.array(["Acura RL Sedan 2012", "BMW X6 SUV 2012"], object)},
    )
    rows = np.array([("0.jpg", 1), ("1.jpg", 2)], [("fname", object), ("class", object)])
    savemat(root / "stanford_cars/cars_test_annos_withlabels.mat", {"annotations": rows})


def imagenet(root):
    for wnid in ("n0", "n1"):
        write_image(root / f"imagenet/val/{wnid}/{wnid}.JPEG")
    torch.save(({"n0": ("tench",), "n1": ("goldfish",)}, ["n0", "n1"]), root / "imagenet/meta.bin")


def cifar10(root):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, 3072)
    (folder / "test_batch").write_bytes(pickle.dumps({"data": pixels, "labels": [0, 1]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["airplane", "automobile"]}))


def flowers102(root):
    from scipy.io import savemat

    for i in (1, 2):
        write_image(root / f"flowers-102/jpg/image_{i:05d}.jpg")
    savemat(root / "flowers-102/imagelabels.mat", {"labels": np.array([[1, 2]])})
    savemat(root / "flowers-102/setid.mat", {"tstid": np.array([[1, 2]])})


FIRST_TWO = {
    "cars": ["Acura RL Sedan 2012", "BMW X6 SUV 2012"],
    "imagenet": ["tench", "goldfish"],
    "cifar10": ["airplane", "automobile"],
    "flowers102": ["pink primrose", "hard-leaved pocket orchid"],
}


@pytest.mark.parametrize("make", [cars, imagenet, cifar10, flowers102], ids=lambda make: make.__name__)
def test_zeroshot_from_binary_layouts(tmp_path, monkeypatch, make):
    """torchvision checks the originals' hashes, which made-up files cannot have: that check is left out here."""
    for data_set in (tv.CIFAR10, tv.Flowers102):
        monkeypatch.setattr(data_set, "_check_integrity", lambda self: True)
    monkeypatch.setattr(tv.cifar, "check_integrity", lambda *_: True)
    make(tmp_path)
    task = ZeroShot(root=str(tmp_path), subsets=[make.__name__])
    data = task.read(make.__name__)
    assert [data.classes[label] for label in data.labels] == FIRST_TWO[make.__name__] and len(data.images) == 2
    assert all(image.load().shape[0] == 3 for image in data.images)
    outcomes = task.outcomes(FEATURES)
    assert len(outcomes) == 2 and {outcome.caption for outcome in outcomes} == set(FIRST_TWO[make.__name__])
    assert data.classes == wording(make.__name__).classes


def test_files_that_are_not_json_are_reported(tmp_path):
    (tmp_path / "swap_obj.json").write_text("<html>not found</html>")
    task = SugarCrepe(annotations=str(tmp_path), images=str(tmp_path), subsets=["swap_obj"])
    with pytest.raises(ConfigError, match=r"swap_obj\.json is not JSON"):
        task.list_images()
    assert "is not JSON" in task.survey()[0].missing


@pytest.mark.parametrize("name", LAYOUTS)
def test_zeroshot_from_torchvision_layouts(tmp_path, name):
    images, texts, classes = LAYOUTS[name]
    for image in images:
        write_image(tmp_path / image)
    for path, text in texts.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    task = ZeroShot(root=str(tmp_path), subsets=[name])
    data = task.read(name)
    assert [data.classes[label] for label in data.labels] == classes and data.classes == wording(name).classes
    assert [Path(image.path) for image in data.images] == [tmp_path / image for image in images]
    assert len(task.outcomes(FEATURES)) == 2
    assert task.survey()[0].num_found == 2
    with pytest.raises(ConfigError, match=f"{name} is not in .*torchvision.*benchmark.zeroshot.subsets"):
        ZeroShot(root=str(tmp_path / "nowhere"), subsets=[name]).list_images()


# Of the lists in CLIP_benchmark's en_classnames.json and builder.py (commit 48de38c), a name a line; ImageNet's too.
CLASS_LISTS = {
    "cifar10": (10, "bb3914949cecedee"),
    "cifar100": (100, "60ae3a3ac1355fcf"),
    "food101": (101, "9c0eeb5a368baacb"),
    "pets": (37, "50be1443390f8a02"),
    "flowers102": (102, "5429e1ef6e0e5aa3"),
    "sun397": (397, "dd1277b1cfcf09ba"),
    "cars": (196, "93d089469409bbd0"),
    "dtd": (47, "681d23b9cd3c2ede"),
    "caltech101": (102, "e0ecbf33d0f07158"),
    "aircraft": (100, "e1c9e72060e63d52"),
    "imagenet": (1000, "571ae1c583b4be7d"),
}


def test_class_names_are_those_of_clip_benchmark():
    for name, (count, digest) in CLASS_LISTS.items():
        classes = wording(name).classes
        assert len(classes) == count
        assert hashlib.sha256("\n".join(classes).encode()).hexdigest()[:16] == digest, name
    assert set(CLASS_LISTS) == set(DATASETS)


def test_names_of_the_sources_become_those_of_clip():
    """What torchvision and TensorFlow Datasets call otherwise; the last two were wrong with / as a space."""
    for name, theirs, ours in (
        ("flowers102", "pink-yellow dahlia?", "pink and yellow dahlia"),
        ("flowers102", "ball moss", "air plant"),
        ("flowers102", "globe-flower", "globe flower"),
        ("caltech101", "Faces_easy", "centered face"),
        ("caltech101", "BACKGROUND_Google", "background"),
        ("caltech101", "snoopy", "snoopy (cartoon beagle)"),
        ("sun397", "theater/indoor_procenium", "theater indoor procenium"),
        ("pets", "american_bulldog", "American Bulldog"),
        ("cars", "Ram C/V Cargo Van Minivan 2012", "Ram C/V Cargo Van Minivan 2012"),
        ("aircraft", "F/A-18", "F/A-18"),
    ):
        assert wording(name).classes[class_indices(name, [theirs])[0]] == ours
    assert class_indices("flowers102", tv.Flowers102.classes) == list(range(102))
    with pytest.raises(ValueError, match="its class 'tennis ball' is not in"):
        class_indices("dtd", ["banded", "tennis ball"])


def test_the_published_number_of_prompts():
    counts = {name: len(wording(name).templates) for name in DATASETS}
    assert counts == {
        "cifar10": 18,
        "cifar100": 18,
        "food101": 1,
        "pets": 1,
        "flowers102": 1,
        "sun397": 2,
        "cars": 8,
        "dtd": 8,
        "caltech101": 34,
        "aircraft": 2,
        "imagenet": 80,
    }
    for name in DATASETS:
        templates = wording(name).templates
        assert len(set(templates)) == len(templates) and all(template.count("{}") == 1 for template in templates)


def test_zeroshot_from_webdataset_copies(tmp_path):
    folder = tmp_path / "wds_vtab-dtd"
    (folder / "test").mkdir(parents=True)
    (folder / "classnames.txt").write_text("banded\ndotted\nknitted\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a {c} texture.\nthe {c} thing.\n")
    labels = [0, 2, 1, 0, 2, 2]
    for shard in (0, 1):
        with tarfile.open(folder / "test" / f"{shard}.tar", "w") as archive:
            for i in range(3):
                for suffix, data in (
                    ("cls", str(labels[3 * shard + i]).encode()),
                    ("png", write_image(tmp_path / f"{shard}{i}.png")),
                ):
                    info = tarfile.TarInfo(f"s{i}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    task = ZeroShot(root=str(tmp_path), source="webdataset", metric="mean_per_class", subsets=["dtd"])
    data = task.read("dtd")
    names = ["banded", "dotted", "knitted"]
    assert [data.classes[label] for label in data.labels] == [names[label] for label in labels]
    assert data.images[4].load().shape == (3, 30, 40) and len(data.classes) == 47
    assert data.prompts()[:2] == ["a photo of a banded texture.", "a photo of a banded pattern."]  # not the file's
    labels = data.labels
    found = task.outcomes(FEATURES)
    rights = []
    for image, label in zip(data.images, labels, strict=True):
        classifier = [sum(FEATURES.one(p) for p in data.prompts()[8 * c : 8 * c + 8]) for c in range(47)]
        scores = [float(FEATURES.one(image.name) @ (w / w.norm())) for w in classifier]
        rights.append(scores.index(max(scores)) == label)
    assert [outcome.correct for outcome in found] == rights
    subsets, means = point_estimates(task, found)
    per_class = [
        sum(r for r, label in zip(rights, labels, strict=True) if label == c) / labels.count(c) for c in set(labels)
    ]
    assert subsets["dtd"] == pytest.approx(sum(per_class) / 3) == means["average_mean_per_class"]
    assert means["average_top1"] == pytest.approx(sum(rights) / 6)
    single = ZeroShot(root=str(tmp_path), source="webdataset", prompts="single", subsets=["dtd"])
    assert next(iter(single.list_texts())) == "a photo of a banded." and single.protocol()["prompts"] == "single"
    assert single.protocol()["data"] != task.protocol()["data"]


def test_own_items(tmp_path):
    rng = random.Random(6)
    items = [
        {"image": f"{i % 5}.jpg", "captions": [sentence(rng) for _ in range(2 + i % 3)], "label": i % 2, "id": i}
        for i in range(20)
    ]
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, [*items, items[0]])))
    task = Own(str(tmp_path / "my.jsonl"))
    found = {outcome.item: outcome for outcome in task.outcomes(FEATURES)}
    for item in items:
        image = next(p for p in task.list_images() if p.path.endswith(item["image"]))
        scores = [FEATURES.score(image, caption) for caption in item["captions"]]
        assert found[str(item["id"])].correct == (scores.index(max(scores)) == item["label"])
        assert found[str(item["id"])].chance == pytest.approx(1 / len(scores))
    assert len(found) == 20 and "2 items of this name" in task.problems[0].reason
    nulls = [dict(item, id=None, subset=None, group=None, captions=["a\u2028b", "c"], label=0) for item in items]
    (tmp_path / "nulls.jsonl").write_text("\n".join(json.dumps(item, ensure_ascii=False) for item in nulls))
    assert len(Own(str(tmp_path / "nulls.jsonl")).choices) == 20
    for line, reason in (
        ("{", "is not JSON"),
        ('{"image": "1.jpg", "captions": ["a", "b"]}', "label"),
        ('{"image": "1.jpg", "captions": ["a", "b"], "label": 2}', "label 2 of 2"),
        ('{"image": "1.jpg", "captions": ["a", " "], "label": 0}', "captions.1 must not be empty"),
    ):
        (tmp_path / "bad.jsonl").write_text(json.dumps(items[0]) + "\n" + line)
        with pytest.raises(ConfigError, match=rf"bad\.jsonl:2: .*{reason}"):
            Own(str(tmp_path / "bad.jsonl"))
    with pytest.raises(ConfigError, match=r"benchmark\.own\.path is not set"):
        Own(None)
