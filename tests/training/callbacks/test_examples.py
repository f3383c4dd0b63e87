"""The examples of a run: the same items before and after, with cosines that plain encoding gives too."""

import base64

import pytest
import torch

from degla.cli.compose import compose_config
from degla.data.images import decode
from degla.evaluation import Encoder
from degla.models import load_clip
from degla.report.examples import examples_section, read_examples
from degla.train import run_training

SUBSETS = ["sugarcrepe/swap_obj", "aro/order", "sugarcrepe/swap_obj"]


def test_examples_of_a_run(tmp_path):
    run = tmp_path / "run"
    settings = {
        "experiment": "scenes_finetune",
        "data.num_scenes": 64,
        "loader": {"global_batch_size": 8, "num_workers": 0},
        "trainer.max_steps": 2,
        "optimizer.lr": 1e-3,
        "scheduler.warmup_steps": 0,
        "benchmark.scenes.num_items": 4,
        "callbacks": "examples",
        "callbacks.examples.subsets": SUBSETS,
        "run_dir": str(run),
    }
    run_training(compose_config("train", settings))
    items = read_examples(run).items
    assert [item.subset for item in items] == SUBSETS and items[0].caption != items[2].caption
    for model, name in (
        (load_clip("degla-scenes", "plain_clip"), "before"),
        (load_clip("degla-scenes", str(run / "model")), "after"),
    ):
        encoder = Encoder(model)
        for item in items:
            pixels = decode(base64.b64decode(item.image), "item")
            image = encoder.encode_images(encoder.transform(pixels)[None])
            cosines = (encoder.encode_texts([item.caption, item.foil]) @ image[0]).tolist()
            assert getattr(item, name) == pytest.approx(cosines, abs=2e-3 if name == "after" else 1e-5)
    assert items[0].before != items[0].after and torch.tensor(items[0].after).isfinite().all()
    page = examples_section(run)
    assert page.count("class=sample>") == 3 and items[1].foil in page
    assert (run / "report.html").read_text().count("<h2>Examples</h2>") == 1
