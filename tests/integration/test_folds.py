"""A cross-validation from a folder in Flickr8k's layout to its table, by the two commands of docs/photos.md."""

import csv
import json
import random

import numpy as np
from PIL import Image

from degla.report.text_only import read_text_only
from tests.conftest import TINY, degla

ANIMALS, COLOURS = ("dog", "cat", "horse", "bird"), ("black", "white", "brown", "red")
PLACES = ("park", "garden", "street", "field", "house", "yard")


def flickr_folder(folder, images=50):
    """Photos of noise, two captions each, in ``captions.txt`` and ``images/``."""
    pixels, words = np.random.default_rng(0), random.Random(0)
    (folder / "images").mkdir(parents=True)
    with (folder / "captions.txt").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        for number in range(images):
            noise = Image.fromarray(pixels.integers(0, 256, (30, 40, 3), dtype=np.uint8))
            noise.save(folder / "images" / f"{number}.jpg")
            for _ in range(2):
                (a, b), (c, d) = words.sample(ANIMALS, 2), words.sample(COLOURS, 2)
                caption = f"A {c} {a} chases a {d} {b}, with a man in the {words.choice(PLACES)}"
                writer.writerow([f"{number}.jpg", caption])
    return folder


def test_two_folds_of_a_folder_of_photos(tmp_path):
    photos = flickr_folder(tmp_path / "flickr8k")
    degla(f"input={photos}/captions.txt", "negatives.tagger=lexicon", cwd=tmp_path, program="negatives")
    command = ["+sweep=folds", "experiment=flickr8k", f"data.path={photos}", *TINY, "model.pretrained=null",
               "loader.num_folds=2", "loader.fold=0,1", "trainer.max_steps=1", "loader.global_batch_size=4",
               "callbacks.export=null"]  # fmt: skip
    result = degla(*command, cwd=tmp_path)
    output = result.stdout + result.stderr
    assert "its scores test the machinery" in output and "2 of 2 folds" in output
    sweep = tmp_path / "runs/flickr8k/folds"
    (group,) = json.loads((sweep / "folds.json").read_text())["groups"]
    assert group["folds"] == [0, 1] and group["steps"] == [1, 1] and group["has_random_weights"]
    scores = group["scores"]
    assert {"caption_choice", "caption_choice/swap_nouns", "image_to_text_r@1", "text_to_image_r@10"} <= set(scores)
    assert sum(scores["image_to_text_r@1"]["count"]) == 50 and sum(scores["caption_choice"]["count"]) == 100
    for values in scores.values():
        assert all(len(values[key]) == 2 for key in ("before", "after", "text_only", "count"))
        assert all(baseline is not None for baseline in values["text_only"])
    for run in sweep.glob("fold=*"):
        page = (run / "report.html").read_text()
        cell = read_text_only(run).cell("caption_choice")
        assert f"<td>caption_choice</td><td>{cell}</td>" in page and "without the images" in page
