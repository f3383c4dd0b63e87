"""``degla-search`` as a user runs it: embed, change the folder, search, kill, damage, another model, no torch."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from degla.data.scenes import suite_items
from tests.conftest import degla

pytest.importorskip("usearch", reason="the extra search is not installed")

ROOT = Path(__file__).parents[2]


def draw(folder: Path, count: int, subset: str = "relation") -> dict[str, str]:
    """Draw scenes into two folders; return path -> caption."""
    captions = {}
    for i, item in enumerate(suite_items("aro", subset, "test", count)):
        path = folder / f"part {i % 2}" / f"{subset}-{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(item.image_bytes)
        captions[path.relative_to(folder).as_posix()] = item.caption
    return captions


def search(*arguments, cwd, check=True, **environment):
    return degla("index=photos", *arguments, cwd=cwd, check=check, program="search", **environment)


def manifest_of(cwd: Path) -> dict:
    return json.loads((cwd / "photos/.degla_search/manifest.json").read_text())


def hits_in(output: str) -> list[str]:
    return re.findall(r"^ *\d+ +-?\d\.\d{4}(?:  margin [+-]\d\.\d{4})?  (.+)$", output, re.MULTILINE)


@pytest.fixture(scope="module")
def onnx_model(tmp_path_factory):
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    from degla.models import load_clip
    from degla.models.onnx import save_onnx

    return save_onnx(load_clip("degla-scenes", "plain_clip").eval(), tmp_path_factory.mktemp("onnx") / "pair")


def test_embed_change_and_search(tmp_path):
    photos = tmp_path / "photos"
    captions = draw(photos, 40)
    (photos / "broken.jpg").write_bytes(b"no image")
    (photos / "truncated.png").write_bytes((photos / next(iter(captions))).read_bytes()[:200])
    (photos / "notes.txt").write_text("not an image by its name")
    (photos / ".hidden").mkdir()
    (photos / ".hidden/x.png").write_bytes(b"")
    first = search("model=scenes", cwd=tmp_path).stdout
    assert "40 images by degla-scenes plain_clip; 40 embedded, 0 removed, 2 left out as broken" in first
    assert "left out: broken.jpg (not an image)" in first and "left out: truncated.png" in first
    assert re.search(r"recall@10 of the index against brute force: 100.0 % for captions", first)
    assert "; 0 embedded, 0 removed, 2 left out" in search(cwd=tmp_path).stdout

    changed, removed = list(captions)[:2]
    (photos / removed).unlink()
    Image.new("RGB", (60, 40), "red").save(photos / changed)
    (photos / "truncated.png").write_bytes((photos / list(captions)[2]).read_bytes())
    draw(photos, 4, "attribution")
    second = search(cwd=tmp_path).stdout
    assert "44 images by" in second and "; 6 embedded, 2 removed, 1 left out as broken" in second
    paths = {entry[0] for entry in manifest_of(tmp_path)["images"]}
    assert removed not in paths and {changed, "truncated.png", "part 1/attribution-3.png"} <= paths
    assert len(list((photos / ".degla_search").iterdir())) == 4  # lock, manifest, features, graph

    path = list(captions)[7]
    result = search(f"query={captions[path]}", "hits=5", "page=out/my.html", cwd=tmp_path).stdout
    assert len(hits_in(result)) == 5 and result.endswith("out/my.html\n")
    page = (tmp_path / "out/my.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 5 and "http" not in page.replace("http-equiv", "")
    assert hits_in(result)[0] in page and captions[path] in page


def test_hits_equal_brute_force_with_torch(tmp_path):
    """The program's hits are those of ``degla.load`` on the same files."""
    import degla as api

    captions = draw(tmp_path / "photos", 60)
    search("model=scenes", cwd=tmp_path)
    query = "a red circle, don't ask, left of a blue square"  # a comma and an apostrophe reach the model
    hits = hits_in(search(f"query={query}", "page=null", cwd=tmp_path).stdout)
    scores = api.load("scenes").score([tmp_path / "photos" / path for path in captions], query)[:, 0].numpy()
    assert hits == [list(captions)[i] for i in np.argsort(-scores)[:10]]
    assert not (tmp_path / "hits.html").exists()


def test_reranked_by_the_margin_over_hard_negatives(tmp_path):
    import degla as api
    from degla.image_index.query import rule_negatives

    captions = draw(tmp_path / "photos", 60)
    search("model=scenes", cwd=tmp_path)
    query = "a red circle to the left of a blue square"
    negatives = rule_negatives(query)
    assert "a blue circle to the left of a red square" in negatives and query not in negatives
    output = search(f"query={query}", "rerank=true", "rerank_hits=20", cwd=tmp_path).stdout
    scores = api.load("scenes").score([tmp_path / "photos" / path for path in captions], [query, *negatives]).numpy()
    first = np.argsort(-scores[:, 0])[:20]
    margins = scores[first, 0] - scores[first, 1:].max(1)
    assert hits_in(output) == [list(captions)[i] for i in first[np.argsort(-margins)]][:10]
    shown = [float(margin) for margin in re.findall(r"margin ([+-]\d\.\d{4})", output)]
    np.testing.assert_allclose(shown, np.sort(margins)[::-1][:10], atol=1e-4)
    assert "over “" in (tmp_path / "hits.html").read_text()
    nothing = search("query=zzz", "rerank=true", cwd=tmp_path)
    assert "no rule can make a negative" in nothing.stdout and "margin" not in nothing.stdout.replace("hits", "")


def test_onnx_alone_embeds_and_searches(tmp_path, onnx_model):
    """The whole program in a process that fails if anything imports torch."""
    captions = draw(tmp_path / "photos", 30)
    (tmp_path / "photos/broken.jpg").write_bytes(b"no image")
    code = (
        "import sys\nsys.modules.update(dict.fromkeys(['torch', 'open_clip', 'lightning', 'torchvision'], None))\n"
        "from degla.search import main\nmain()"
    )
    for arguments in ([f"onnx={onnx_model}"], ["query=a red circle left of a blue square", "rerank=true"]):
        result = subprocess.run([sys.executable, "-c", code, "index=photos", *arguments], cwd=tmp_path,
                                capture_output=True, text=True)  # fmt: skip
        assert result.returncode == 0, result.stderr[-3000:]
    assert len(hits_in(result.stdout)) == 10 and set(hits_in(result.stdout)) <= set(captions)
    manifest = manifest_of(tmp_path)
    assert manifest["model"]["kind"] == "onnx" and [entry[0][0] for entry in manifest["broken"]] == ["broken.jpg"]
    search("model=scenes", "store=torch_index", cwd=tmp_path)
    query = "query=a red circle"
    by_torch = hits_in(search(query, "store=torch_index", "hits=3", cwd=tmp_path).stdout)
    assert set(by_torch) & set(hits_in(search(query, "hits=3", cwd=tmp_path).stdout))


def test_killed_and_resumed(tmp_path):
    """kill -9 while images are embedded; what was written is not embedded again, and the result is the same."""
    captions = draw(tmp_path / "photos", 300)
    slow = (
        "import time\nfrom degla.image_index import blocks, build, encoders\n"
        "build.ROWS = blocks.ROWS = 32\nencode = encoders.TorchEncoder.encode_images\n"
        "def encode_slowly(self, pixels):\n    time.sleep(0.1)\n    return encode(self, pixels)\n"
        "encoders.TorchEncoder.encode_images = encode_slowly\n"
        "from degla.search import main\nmain()"
    )
    command = [sys.executable, "-c", slow, "index=photos", "model=scenes", "batch_size=8", "device=cpu"]
    job = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    store, deadline = tmp_path / "photos/.degla_search", time.monotonic() + 60
    while len(list(store.glob("features-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    second = search("model=scenes", cwd=tmp_path, check=False)
    assert second.returncode == 2 and re.search(r"is in use by process \d+", second.stderr), second.stderr
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    assert not (store / "manifest.json").exists()
    no_index = search("query=a circle", cwd=tmp_path, check=False)
    assert no_index.returncode == 2 and "index=photos has no index yet" in no_index.stderr
    (store / ".features-half.safetensors.0000.part").write_bytes(b"half")
    resumed = search("model=scenes", cwd=tmp_path).stdout
    embedded = int(re.search(r"; (\d+) embedded", resumed)[1])
    assert 0 < embedded <= 300 - 64 and "300 images" in resumed
    query = f"query={captions[next(iter(captions))]}"
    hits = search(query, cwd=tmp_path).stdout
    search("model=scenes", "store=fresh", cwd=tmp_path)
    assert hits_in(hits) == hits_in(search(query, "store=fresh", cwd=tmp_path).stdout)
    assert sorted(path.suffix for path in store.iterdir()) == ["", ".json", ".safetensors", ".usearch"]


def test_damage_is_repaired_or_named(tmp_path):
    draw(tmp_path / "photos", 30)
    search("model=scenes", cwd=tmp_path)
    store = tmp_path / "photos/.degla_search"
    expected = hits_in(search("query=a red circle", cwd=tmp_path).stdout)
    graph = next(store.glob("*.usearch"))
    graph.write_bytes(graph.read_bytes()[:-100])
    repaired = search("query=a red circle", cwd=tmp_path).stdout
    assert "is damaged" in repaired and "built again from the features" in repaired and hits_in(repaired) == expected
    assert "damaged" not in search("query=a red circle", cwd=tmp_path).stdout

    features = next(store.glob("*.safetensors"))
    features.write_bytes(features.read_bytes()[:-1])
    next(store.glob("*.usearch")).unlink()
    both = search("query=a red circle", cwd=tmp_path, check=False)
    assert both.returncode == 2 and "run degla-search without query=" in both.stderr
    again = search(cwd=tmp_path).stdout
    assert "; 30 embedded, " in again and hits_in(search("query=a red circle", cwd=tmp_path).stdout) == expected

    (store / "manifest.json").write_text("{}")
    named = search("query=a red circle", cwd=tmp_path, check=False)
    assert named.returncode == 2 and "the manifest of photos/.degla_search is damaged" in named.stderr
    assert "; 0 embedded" in search("model=scenes", cwd=tmp_path).stdout  # the features are still there
    assert hits_in(search("query=a red circle", cwd=tmp_path).stdout) == expected


def test_an_index_of_another_model_is_refused(tmp_path):
    draw(tmp_path / "photos", 12)
    search("model=scenes", cwd=tmp_path)
    other = ["model=scenes", "model.pretrained=null"]
    for arguments in (other, [*other, "query=a circle"]):
        result = search(*arguments, cwd=tmp_path, check=False)
        assert result.returncode == 2 and "Traceback" not in result.stderr
        assert "is the index of another model (degla-scenes plain_clip, not degla-scenes random" in result.stderr
    assert "12 embedded" in search(*other, "rebuild=true", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index=null"], "index is not set"),
        (["index=nowhere", "model=scenes"], "index=nowhere is not a folder"),
        (["index=empty", "model=scenes"], "index=empty holds no images"),
        (["index=bad", "model=scenes"], "none of 1 images can be read; not an image"),
        ([], "no model is set: set model="),
        (["query=a dog"], "index=photos has no index yet"),
        (["query=", "model=scenes"], "query is empty"),
        (["onnx=empty"], "holds no degla_onnx.json"),
        (["onnx=empty", "model=scenes"], "model and onnx are both set"),
        (["model=scenes", "hits=0"], "hits=0 must be a whole number of 1 or more"),
        (["model=scenes", "device=tpu"], "device=tpu is not available"),
        (["model=scenes", "store=bad/x.png"], "cannot be written"),
        (["model=scenes", "pages=x"], "did you mean page?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_sentence(tmp_path, arguments, message):
    draw(tmp_path / "photos", 2)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/x.png").write_bytes(b"no image")
    result = search(*arguments, cwd=tmp_path, check=False)
    assert result.returncode == 2 and message in result.stderr, result.stderr
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr


def test_real_photos(flickr, tmp_path):
    """A hundred photos; the index finds what brute force finds."""
    (tmp_path / "photos").mkdir()
    for path in sorted((flickr / "images").iterdir())[:100]:
        (tmp_path / "photos" / path.name).symlink_to(path)
    output = search("model=tiny", cwd=tmp_path, check=True).stdout
    assert "100 images by degla-tiny random weights; 100 embedded" in output
    recall = manifest_of(tmp_path)["recall"]
    assert recall["texts"] >= 0.99 and recall["images"] >= 0.99
