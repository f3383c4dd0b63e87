"""A model travels to a hub and back: ``push_to_hub``, then its name wherever a model is named."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from degla.data.scenes import suite_items
from degla.models import load_clip, save_open_clip
from tests.helpers.hub_server import hub_server

# Programs of degla one after the other in one process, because importing torch takes longer than they do. The last
# line of the output holds their exit codes.
RUN = """
import importlib, json, os, sys
codes = []
for program, *arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    os.environ.pop("HYDRA_FULL_ERROR", None)  # the program before has set it for Hydra
    try:
        importlib.import_module(f"degla.{program}").main()
        codes.append(0)
    except SystemExit as stop:
        codes.append(stop.code)
print(json.dumps(codes))
"""
LOAD = """
import os, torch
import degla
from degla.errors import ConfigError
from degla.models import load_clip
texts = ["a red circle left of a blue square", "two stars"]
images = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
names = ["hf-hub:me/mine", "hf://me/mine"]
for arguments in (*({"name": name} for name in names), *({"pretrained": name} for name in names),
                  {"name": "degla-scenes", "pretrained": "hf://me/mine/open_clip_model.safetensors"},
                  {"pretrained": "hf://me/transformers"}):
    model = load_clip(**arguments).eval()
    other = load_clip("local-dir:tiny" if "transformers" in str(arguments) else "local-dir:model").eval()
    size = torch.nn.functional.interpolate(images.float(), other.image_size[0]).to(torch.uint8)
    torch.testing.assert_close(model.tokenizer(texts), other.tokenizer(texts))
    for ours, theirs in zip(model(size, model.tokenizer(texts)), other(size, other.tokenizer(texts)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    print(model.source.description)
print(degla.load("hf://me/mine").score("photos/0.png", texts).shape)
os.environ["HF_TOKEN"] = "another"
try:
    load_clip("hf-hub:me/mine", cache_dir="elsewhere")
except ConfigError as error:
    print(error)
"""
TRAIN = ["data=scenes", "data.num_scenes=16", "loader.num_workers=0", "loader.global_batch_size=8",
         "trainer.max_steps=1", "callbacks.progress_bar=null", "trainer.accelerator=cpu"]  # fmt: skip
COMMANDS = [
    ["export", "ckpt=model", "out=out", "push_to_hub=me/mine"],
    ["export", "ckpt=tiny", "out=hf", "to=hf", "push_to_hub=me/transformers"],
    ["evaluate", "model.pretrained=hf://me/mine", "benchmark=scenes", "benchmark.scenes.num_items=2", "num_workers=0",
     "explorer_items=0", "run_dir=measured", "device=cpu"],
    ["search", "index=photos", "model=scenes", "model.pretrained=hf-hub:me/mine"],
    ["search", "index=photos", "query=a red circle", "page=null"],
    ["export", "ckpt=hf://me/mine", "to=safetensors"],
    ["train", "model=scenes", "model.pretrained=hf://me/mine", *TRAIN, "run_dir=run"],
]  # fmt: skip
MISTAKES = {
    "hf-hub:me/none could not be downloaded": ["export", "ckpt=hf://me/none"],
    "none.pt of hf://me/mine could not be downloaded": ["export", "ckpt=hf://me/mine/none.pt"],
    "hf://me/mine holds one model": ["export", "ckpt=hf://me/mine", "weights=ema", "out=x"],
}


def python(code: str, *arguments: str, cwd: Path, url: str, home: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(cwd / home), "HF_TOKEN": "a secret",
                   "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
    environment.pop("HF_HUB_OFFLINE", None)
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, env=environment, capture_output=True,
                          text=True, timeout=400)  # fmt: skip


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Folder, server and output of all programs: models are pushed, and then taken from the hub by name."""
    folder = tmp_path_factory.mktemp("hub")
    save_open_clip(load_clip("degla-scenes", "plain_clip"), folder / "model")  # with a vocabulary of its own
    save_open_clip(load_clip("degla-tiny", quick_gelu=True), folder / "tiny")
    (folder / "photos").mkdir()
    for i, item in enumerate(suite_items("aro", "relation", "test", 4)):
        (folder / "photos" / f"{i}.png").write_bytes(item.image_bytes)
    with hub_server() as server:
        commands = json.dumps([*COMMANDS, *MISTAKES.values()])
        result = python(RUN, commands, cwd=folder, url=server.url, home="owner")
        assert result.returncode == 0, result.stderr[-4000:]
        yield folder, server, result


def test_a_model_is_pushed_by_lfs_to_a_private_repository(hub):
    folder, server, _ = hub
    for name, repository in (("out", "me/mine"), ("hf", "me/transformers")):
        kept = server.repositories[repository]
        written = {path.name: path.read_bytes() for path in (folder / name).iterdir()}
        assert {key: content for key, content in kept.files.items() if key != ".gitattributes"} == written
        assert kept.private and len(kept.commits) == 2
    assert len([line for line in server.requests if line.startswith("PUT /lfs/")]) >= 2


def test_it_is_loaded_back_by_name(hub):
    folder, server, _ = hub
    before = len(server.requests)
    result = python(LOAD, cwd=folder, url=server.url, home="reader")
    assert result.returncode == 0, result.stderr[-3000:]
    *sources, shape, refusal = result.stdout.splitlines()
    assert sources.count("degla-scenes hf-hub:me/mine") == 4 and sources[-1] == "degla-tiny hf-hub:me/transformers"
    assert shape == "torch.Size([1, 2])" and refusal.startswith("model.name: hf-hub:me/mine could not be downloaded")
    downloads = [line for line in server.requests[before:] if line.startswith("GET") and ".safetensors" in line]
    assert len(downloads) == 2  # one of each repository: the cache answers the rest


def test_every_program_takes_its_name(hub):
    folder, _, result = hub
    codes = json.loads(result.stdout.splitlines()[-1])
    assert codes == [0] * len(COMMANDS) + [2] * len(MISTAKES), result.stderr[-4000:]
    assert "4 images by degla-scenes hf-hub:me/mine" in result.stdout and ".png" in result.stdout
    measured = json.loads((folder / "measured/results.json").read_text())
    assert measured["model"]["pretrained"] == "hf-hub:me/mine"
    state = load_clip("degla-scenes", "plain_clip").clip.state_dict()
    again = load_clip("degla-scenes", str(folder / "mine_safetensors/open_clip_model.safetensors"))
    assert all((state[name] == value).all() for name, value in again.clip.state_dict().items())
    assert load_clip(f"local-dir:{folder / 'run/model'}").merges.name == "degla-scenes.bpe.gz"


def test_mistakes_are_one_sentence(hub):
    _, _, result = hub
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(MISTAKES) and "Traceback" not in result.stderr
    for message, error in zip(MISTAKES, errors, strict=True):
        assert message in error
