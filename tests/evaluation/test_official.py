"""Over the published JSON files: counts, quirks, and a ViT-B/32 that encodes each image and caption once."""

import json

import pytest

from degla.errors import ConfigError
from degla.evaluation import Encoder, FeatureStore, benchmark_records, run_benchmarks
from degla.evaluation.caption_files import read_caption_file
from degla.evaluation.perturbations import cleaned, frozen_order
from degla.evaluation.tasks.retrieval import Retrieval
from degla.evaluation.tasks.sugarcrepe import SugarCrepe
from degla.evaluation.tasks.valse import Valse
from degla.evaluation.tasks.word_order import WordOrder
from degla.models import load_clip
from tests.conftest import SHARED
from tests.helpers.benchmarks import RandomFeatures, stand_ins

VALSE_IMAGES = ("coco_train2014", "coco_val2014", "coco_val2017", "visual7w", "swig", "visdial")


@pytest.fixture(scope="module")
def shared():
    if not (SHARED / "sugarcrepe").is_dir():
        pytest.skip(f"the published files are not here ({SHARED})")
    return SHARED


def valse(shared, root, **arguments):
    folders = {source: str(root / source) for source in VALSE_IMAGES}
    return Valse(annotations=str(shared / "valse"), images=folders, **arguments)


def test_sugarcrepe_counts(shared, tmp_path):
    task = SugarCrepe(annotations=str(shared / "sugarcrepe"), images=str(tmp_path / "val2017"))
    counts = {row.part: row.num_items for row in task.survey()}
    assert counts == task.official_counts and sum(counts.values()) == 7511
    assert len(task.list_images()) == 1560 and not task.problems
    swapped = [choice.item for choice in task.choices if choice.subset == "swap_obj"]
    assert "108" not in swapped and swapped[-1] == "245" and len(swapped) == 245
    found = task.outcomes(RandomFeatures())
    accuracy = {s: sum(o.correct for o in found if o.subset == s) / n for s, n in counts.items()}
    means = task.means(accuracy)
    assert means["micro"] == pytest.approx(sum(o.correct for o in found) / 7511)
    assert means["swap"] == pytest.approx((accuracy["swap_obj"] + accuracy["swap_att"]) / 2)
    assert means["average"] == pytest.approx(sum(accuracy.values()) / 7)


def test_valse_counts_by_file(shared, tmp_path):
    task, everything = valse(shared, tmp_path), valse(shared, tmp_path, min_votes=0)
    assert {row.part: row.num_items for row in task.survey()} == task.official_counts
    assert len(task.choices) == 7702 and len(everything.choices) == 8782
    counts = {
        source: sum(source in choice.image.path for choice in task.choices if "standard" in choice.subset)
        for source in ("coco_train2014", "coco_val2014")
    }
    assert counts == {"coco_train2014": 493, "coco_val2014": 215}
    found = task.outcomes(RandomFeatures())
    assert sum(outcome.subset == "coreference-standard-unseen" for outcome in found) == 215
    accuracy = {s: sum(o.correct for o in found if o.subset == s) / n for s, n in task.official_counts.items()}
    means = task.means(accuracy)
    assert means["average"] == pytest.approx(sum(accuracy.values()) / 11)
    counting = [accuracy[f"counting-{kind}"] for kind in ("hard", "small-quant", "adversarial")]
    assert means["counting"] == pytest.approx(sum(counting) / 3)


def test_coco_karpathy_counts(shared, tmp_path):
    task = Retrieval(str(shared / "coco_karpathy" / "coco_karpathy_test.json"), str(tmp_path), 5000)
    captioned = read_caption_file(task, task.captions, tmp_path)
    assert len(captioned) == 5000 and sum(len(captions) for _, _, captions in captioned) == 25010
    assert task.survey()[0][:5] == ("images", 5000, 5000, 5000, 0)


@pytest.mark.slow
def test_vit_b_32_encodes_each_image_and_each_caption_of_sugarcrepe_once(shared, tmp_path, monkeypatch):
    task = SugarCrepe(annotations=str(shared / "sugarcrepe"), images=str(tmp_path / "val2017"))
    assert stand_ins(task) == 1560
    model = load_clip("ViT-B-32")
    seen = {"image": 0, "text": 0}
    for what in seen:
        # The counts are of what reaches the towers; the towers are cut to one layer to keep the test short.
        tower = model.clip.visual.transformer if what == "image" else model.clip.transformer
        tower.resblocks = tower.resblocks[-1:]
        method = getattr(model, f"encode_{what}")

        def counting(batch, what=what, method=method):
            seen[what] += len(batch)
            return method(batch)

        monkeypatch.setattr(model, f"encode_{what}", counting, raising=False)
    features = FeatureStore(Encoder(model, batch_size=128), progress=False)
    results = run_benchmarks({"sugarcrepe": task}, features)
    texts = {caption for choice in task.choices for caption in choice.captions}
    assert seen == {"image": 1560, "text": len(texts)}
    scored = benchmark_records({"sugarcrepe": task}, results, features)["sugarcrepe"]
    assert {name: subset["num_items"] for name, subset in scored["subsets"].items()} == task.official_counts
    assert scored["protocol"]["activation"] == "gelu" and scored["protocol"]["ties"] == "lost"
    json.dumps(scored)


@pytest.mark.slow
def test_retrieval_and_order_on_real_photos(flickr, tmp_path):
    task = Retrieval(str(flickr / "captions.txt"), str(flickr / "images"), 1000, name="flickr8k_retrieval")
    assert len(task.captioned) == 1000
    features = FeatureStore(Encoder(load_clip("degla-scenes", "plain_clip")), progress=False)
    results = run_benchmarks({"flickr8k": task}, features)
    scored = benchmark_records({"flickr8k": task}, results, features)["flickr8k"]
    assert scored["subsets"]["text_to_image_r@1"]["num_items"] == 5000
    assert scored["subsets"]["image_to_text_r@5"]["num_items"] == 1000
    assert features.num_encoded["images"] == 1000 and scored["num_left_out"] == 0
    recalls = [scored["subsets"][f"image_to_text_r@{k}"]["accuracy"] for k in (1, 5, 10)]
    assert recalls == sorted(recalls)
    order = WordOrder(str(flickr / "captions.txt"), str(flickr / "images"), str(tmp_path / "order.json"))
    results = run_benchmarks({"order": order}, features, no_image_baseline=True)
    assert len(results["order"].outcomes) == 5000 and features.num_encoded["images"] == 1000
    scored = benchmark_records({"order": order}, results, features)["order"]
    assert scored["protocol"]["tagger"] and set(scored["protocol"]["data"]) == {"captions.txt", "order.json"}
    true = [caption for _, _, captions in task.captioned for caption in captions]
    changed = 0
    for choice, caption in zip(order.choices, true, strict=True):
        assert choice.captions[0] == cleaned(caption) and len(choice.captions) == 5
        changed += sum(spoilt != choice.captions[0] for spoilt in choice.captions[1:])
    assert changed > 0.8 * 4 * 5000
    before = (tmp_path / "order.json").read_bytes()
    assert len(frozen_order(tmp_path / "order.json", task.captioned, seed=5).items) == 5000
    with pytest.raises(ConfigError, match=r"order\.json was made from other captions"):
        frozen_order(tmp_path / "order.json", task.captioned[:3])
    assert (tmp_path / "order.json").read_bytes() == before  # frozen
