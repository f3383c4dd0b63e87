"""Features are encoded once, cached, shared between ranks and reused after a restart; bad images are named."""

import io
import json
import tarfile

import pytest
import safetensors
import torch
from PIL import Image
from safetensors.torch import save_file

from degla.evaluation import Encoder, FeatureStore
from degla.evaluation.feature_table import FeatureTable
from degla.evaluation.features import NoImageFeatures
from degla.evaluation.items import ImageRef
from degla.models import load_clip
from tests.helpers.benchmarks import write_image
from tests.helpers.ranks import run_on_ranks

TEXTS = ["a red circle", "no red circle", "there is a red circle left of a small blue star", "a red circle"]


@pytest.fixture(scope="module")
def shipped():
    return load_clip("degla-scenes", "plain_clip")


@pytest.fixture
def images(tmp_path):
    for i in range(5):
        write_image(tmp_path / f"{i}.png")
    return [ImageRef(str(tmp_path / f"{i}.png")) for i in range(5)]


def test_each_distinct_thing_is_encoded_once(shipped, images, monkeypatch):
    seen = {"images": 0, "texts": 0}

    def counting(method, what):
        def call(batch):
            seen[what] += len(batch)
            return method(batch)

        return call

    monkeypatch.setattr(shipped, "encode_image", counting(shipped.encode_image, "images"), raising=False)
    monkeypatch.setattr(shipped, "encode_text", counting(shipped.encode_text, "texts"), raising=False)
    features = FeatureStore(Encoder(shipped, batch_size=2), progress=False)
    features.add([*images, *images], TEXTS)
    features.add(images[:3], [*TEXTS, "a blue star"])
    assert seen == {"images": 5, "texts": 4} and features.num_encoded == {"images": 5, "texts": 4}
    assert torch.equal(features.text_features(TEXTS)[0], features.text_features(TEXTS)[3])
    assert features.image_features(images).dtype == torch.float32


def test_features_do_not_depend_on_batches_workers_or_the_mode(shipped, images):
    shipped.train()
    one, many = (
        FeatureStore(Encoder(shipped, batch_size=size), num_workers=workers, progress=False)
        for size, workers in ((1, 0), (64, 2))
    )
    for store in (one, many):
        store.add(images, TEXTS)
    torch.testing.assert_close(one.image_features(images), many.image_features(images), rtol=0, atol=1e-5)
    torch.testing.assert_close(one.text_features(TEXTS), many.text_features(TEXTS), rtol=0, atol=1e-5)
    assert shipped.training and not many.text_features(TEXTS).requires_grad
    shipped.eval()


def test_kept_on_disk_by_model_and_file(shipped, images, tmp_path):
    first = FeatureStore(Encoder(shipped), tmp_path / "kept", progress=False)
    first.add(images, TEXTS)
    second = FeatureStore(Encoder(shipped), tmp_path / "kept", progress=False)
    write_image(tmp_path / "4.png", seed=1, size=(50, 50))  # another image of the same name
    second.add(images, [*TEXTS, "new"])
    assert second.num_encoded == {"images": 1, "texts": 1}
    assert torch.equal(first.text_features(TEXTS), second.text_features(TEXTS))
    with torch.no_grad():
        shipped.clip.logit_scale += 0.5
    other = FeatureStore(Encoder(shipped), tmp_path / "kept", progress=False)
    other.add(images, [])
    assert other.num_encoded["images"] == 5  # another model
    with torch.no_grad():
        shipped.clip.logit_scale -= 0.5
    assert Encoder(shipped).fingerprint() != Encoder(shipped, precision="bf16-mixed").fingerprint()


def test_what_was_encoded_before_a_stop_stays(shipped, images, tmp_path, monkeypatch):
    monkeypatch.setattr("degla.evaluation.feature_table._ROWS_PER_FILE", 2)
    encoder = Encoder(shipped, batch_size=2)
    features = FeatureStore(encoder, tmp_path / "kept", progress=False)
    real, calls = encoder.encode_images, []

    def stops(pixels):
        calls.append(len(pixels))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(pixels)

    monkeypatch.setattr(encoder, "encode_images", stops)
    with pytest.raises(KeyboardInterrupt):
        features.add(images, [])
    again = FeatureStore(Encoder(shipped), tmp_path / "kept", progress=False)
    again.add(images, [])
    assert again.num_encoded["images"] == 1
    assert not list((tmp_path / "kept").rglob("*.part"))


def flip_a_byte_of_the_features(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_a_checksum(path):
    """What versions before checksums wrote."""
    with safetensors.safe_open(path, "pt") as file:
        keys, features = file.metadata()["keys"], file.get_tensor("features")
    save_file({"features": features + 1}, path, metadata={"keys": keys})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_byte_of_the_features, "does not have the checksum"),
        (cut_in_half, "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "cannot be read"),
        (without_a_checksum, "has no checksum"),
    ],
    ids=["flipped", "cut", "empty", "zeros", "old"],
)
def test_a_damaged_cache_file_is_named_set_aside_and_rebuilt(shipped, images, tmp_path, caplog, damage, reason):
    first = FeatureStore(Encoder(shipped), tmp_path / "kept", progress=False)
    first.add(images, TEXTS)
    (path,) = (tmp_path / "kept").rglob("texts-*.safetensors")
    damage(path)
    second = FeatureStore(Encoder(shipped), tmp_path / "kept", progress=False)
    assert str(path) in caplog.text and reason in caplog.text
    second.add(images, TEXTS)
    assert second.num_encoded == {"images": 0, "texts": 3}
    assert torch.equal(first.text_features(TEXTS), second.text_features(TEXTS))
    assert path.with_name(f"{path.name}.bad").exists() and not path.exists()
    third = FeatureStore(Encoder(shipped), tmp_path / "kept", progress=False)
    third.add(images, TEXTS)
    assert third.num_encoded == {"images": 0, "texts": 0}


def test_a_cache_file_says_what_wrote_it_and_belongs_to_one_model(shipped, images, tmp_path, caplog):
    store = FeatureStore(Encoder(shipped), tmp_path / "kept", progress=False)
    store.add(images, [])
    (path,) = (tmp_path / "kept").rglob("images-*.safetensors")
    with safetensors.safe_open(path, "pt") as file:
        made = json.loads(file.metadata()["provenance"])
    assert torch.__version__.startswith(made["torch"]) and made["commit"]
    path.parent.rename(path.parent.with_name("another"))
    FeatureTable(path.parent.with_name("another"), "images")
    assert "does not have the checksum" in caplog.text


def test_a_cache_that_cannot_be_written_costs_no_result(shipped, images, tmp_path, caplog):
    (tmp_path / "kept").write_text("a file in the way")
    store = FeatureStore(Encoder(shipped), tmp_path / "kept", progress=False)
    store.add(images, TEXTS)
    assert store.text_features(TEXTS).shape[0] == 4 and "features are kept in memory only" in caplog.text


def test_bad_images_are_named_and_left_out(shipped, images, tmp_path):
    (tmp_path / "torn.jpg").write_bytes(write_image(tmp_path / "whole.jpg", size=(200, 200))[:600])
    bad = [ImageRef(str(tmp_path / "none.jpg")), ImageRef(str(tmp_path / "torn.jpg")), ImageRef.embedded(b"")]
    bad.append(ImageRef(str(tmp_path / "0.png"), box=(3, 3, 0, 5)))
    features = FeatureStore(Encoder(shipped), progress=False)
    features.add([*bad, *images], [])
    assert [features.is_readable(image) for image in [*bad, *images]] == [False] * 4 + [True] * 5
    reasons = {problem.row: problem.reason for problem in features.problems.values()}
    assert reasons[bad[0].name].startswith("no such file") and "truncated" in reasons[bad[1].name].lower()
    assert reasons[bad[2].name] == "empty file" and reasons[bad[3].name].startswith("its box is empty")


def test_an_image_inside_an_archive_and_a_crop_of_one(tmp_path):
    data = write_image(tmp_path / "0.png", size=(40, 30))
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for name in ("a.cls", "a.png"):
            content = data if name.endswith("png") else b"3"
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with tarfile.open(tmp_path / "shard.tar") as archive:
        member = archive.getmember("a.png")
    inside = ImageRef(str(tmp_path / "shard.tar"), span=(member.offset_data, member.size))
    plain = ImageRef(str(tmp_path / "0.png"))
    assert torch.equal(inside.load(), plain.load()) and inside.key() != plain.key()
    part = ImageRef(str(tmp_path / "0.png"), box=(10, 5, 20, 12))
    expected = Image.open(tmp_path / "0.png").crop((10, 5, 30, 17))
    assert part.load().shape == (3, 12, 20)
    assert part.load().permute(1, 2, 0).numpy().tobytes() == expected.tobytes()


def test_no_image_baseline_sees_one_grey_image(shipped, images):
    features = FeatureStore(Encoder(shipped), progress=False)
    features.add(images, TEXTS)
    baseline = NoImageFeatures(features)
    assert (baseline.image_features(images) == baseline.image_features(images[:1])).all()
    assert torch.equal(baseline.text_features(TEXTS), features.text_features(TEXTS))


def _on_rank(rank, world_size, folder, cache):
    images = [ImageRef(f"{folder}/{i}.png") for i in range(5)] + [ImageRef(f"{folder}/none.png")]
    encoder = Encoder(load_clip("degla-scenes", "plain_clip"), batch_size=2)
    features = FeatureStore(encoder, cache, rank=rank, world_size=world_size, progress=False)
    features.add(images, TEXTS)
    shown = [image for image in images if features.is_readable(image)]
    return features.image_features(shown), features.text_features(TEXTS), features.num_encoded, len(shown)


def test_two_ranks_share_the_work(images, tmp_path):
    images, texts, num_encoded, shown = _on_rank(0, 1, tmp_path, None)
    ranks = run_on_ranks(_on_rank, 2, tmp_path, tmp_path / "kept")
    assert num_encoded == {"images": 5, "texts": 3} and shown == 5
    for theirs in ranks:
        torch.testing.assert_close(theirs[0], images, rtol=0, atol=1e-5)
        torch.testing.assert_close(theirs[1], texts, rtol=0, atol=1e-5)
        assert theirs[3] == 5
    assert sum(theirs[2]["images"] for theirs in ranks) == 5  # nothing twice
    assert sum(theirs[2]["texts"] for theirs in ranks) == 3


def _on_rank_with_a_cache_of_its_own(rank, world_size, folder):
    cache = folder / f"cache{rank}"
    if rank:  # read after the others have begun to write, or another machine's disk
        FeatureStore(Encoder(load_clip("degla-scenes", "plain_clip")), cache, progress=False).add(
            [ImageRef(f"{folder}/{i}.png") for i in (0, 3)], TEXTS[1:]
        )
    return _on_rank(rank, world_size, folder, cache)


def test_ranks_whose_caches_differ_agree(images, tmp_path):
    images, texts, *_ = _on_rank(0, 1, tmp_path, None)
    for theirs in run_on_ranks(_on_rank_with_a_cache_of_its_own, 2, tmp_path):
        torch.testing.assert_close(theirs[0], images, rtol=0, atol=1e-5)
        torch.testing.assert_close(theirs[1], texts, rtol=0, atol=1e-5)
