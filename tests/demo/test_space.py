"""``degla-export to=space``: a folder that serves its own page, started from that folder as a Space starts it."""

import json
import os
import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer
from importlib.metadata import version

import pytest
import yaml

import degla
from degla.models import load_clip
from tests.demo.test_page import get
from tests.helpers.forked import degla_forked, forked_python
from tests.test_export import Hub


def exported(cwd, *arguments):
    result = degla_forked(*arguments, "to=space", "out=space", cwd=cwd, program="export")
    assert result.returncode == 0, result.stderr[-3000:]
    return cwd / "space"


def front_matter(folder):
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])


@pytest.fixture(scope="module")
def space(demo_run, tmp_path_factory):
    return exported(tmp_path_factory.mktemp("space"), f"ckpt={demo_run}")


def test_files_of_a_space(space, demo_run):
    assert {path.name for path in space.iterdir()} == {"README.md", "app.py", "requirements.txt", "model"}
    facts = front_matter(space)
    assert facts["sdk"] == "gradio" and facts["app_file"] == "app.py" and len(facts["title"]) > 5
    requirements = (space / "requirements.txt").read_text().splitlines()
    assert requirements[0] == f"degla[demo]=={degla.__version__}"
    assert requirements[1] == f"gradio=={facts['sdk_version']}"
    assert "base model: degla-scenes / plain_clip" in (space / "model/README.md").read_text()
    text = "".join(path.read_text() for path in (space / "app.py", space / "README.md", space / "requirements.txt"))
    assert str(demo_run.parents[2]) not in text and "base='degla-scenes/plain_clip'" in text
    load_clip(f"local-dir:{space / 'model'}")


def test_its_app_starts_from_its_folder(space):
    pytest.importorskip("gradio")
    assert front_matter(space)["sdk_version"] == version("gradio")
    environment = {**os.environ, "GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": "0", "OMP_NUM_THREADS": "1"}
    command = [forked_python(), "app.py"]
    with subprocess.Popen(command, cwd=space, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().split()[0]
            assert address.startswith("http://localhost:")
            status, text, _ = get(address, host="me-mine.hf.space")  # a Space has a name of its own
            assert status == 200 and "Which caption fits the image?" in text
            assert "degla-scenes plain_clip" in text or "degla-scenes/plain_clip" in text
        finally:
            process.terminate()


def test_a_folder_whose_base_is_not_known(pair_folders, tmp_path):
    folder = exported(tmp_path, f"ckpt={pair_folders / 'tuned'}")
    text = (folder / "app.py").read_text() + (folder / "README.md").read_text()
    assert "base=None" in text and str(pair_folders) not in text
    assert front_matter(folder)["title"] == "degla-scenes fine-tuned with degla"


class SpaceHub(Hub):
    """The hub's API for the upload of a Space."""

    created: list[dict] = []

    def do_POST(self):
        if self.path == "/api/repos/create":
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.created.append(json.loads(body))
            self.answer({"url": f"http://{self.headers['Host']}/spaces/me/mine"})
        else:
            super().do_POST()


def test_upload(demo_run, tmp_path, monkeypatch):
    monkeypatch.setattr(SpaceHub, "files", {})
    monkeypatch.setattr(SpaceHub, "requests", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), SpaceHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {**os.environ, "HF_TOKEN": "a secret", "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
                   "HF_HOME": str(tmp_path / "home")}  # fmt: skip
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-m", "degla.export", f"ckpt={demo_run}", "to=space", "out=out", "push_to_hub=me/mine"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    server.shutdown()
    assert result.returncode == 0, result.stderr[-3000:]
    (created,) = SpaceHub.created
    assert (created["type"], created["sdk"]) == ("space", "gradio")
    assert created.get("private") or created.get("visibility") == "private"
    assert any(line.startswith("/api/spaces/me/mine/commit/") for line in SpaceHub.requests)
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert set(SpaceHub.files) == written >= {"app.py", "model/open_clip_model.safetensors"}


def test_a_base_that_nobody_else_has_is_part_of_the_space(pair_folders, tmp_path):
    """A run that started from a file of weights, whose checkpoint records that file."""
    weights = pair_folders / "tuned/open_clip_model.safetensors"
    run = tmp_path / "run"
    result = degla_forked("experiment=demo", "data.num_scenes=64", "loader.num_workers=0", "benchmark=none",
                          "loader.global_batch_size=8", "trainer.max_steps=1", "trainer.accelerator=cpu",
                          "callbacks.progress_bar=null", f"model.pretrained={weights}", f"run_dir={run}",
                          cwd=tmp_path)  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    folder = exported(tmp_path, f"ckpt={run}")
    assert "base='base'" in (folder / "app.py").read_text()
    base, expected = (load_clip(f"local-dir:{path}") for path in (folder / "base", pair_folders / "tuned"))
    assert all((a == b).all() for a, b in zip(base.clip.parameters(), expected.clip.parameters(), strict=True))
