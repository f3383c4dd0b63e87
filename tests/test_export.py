"""Exports load in plain open_clip and transformers, and files of other projects load here."""

import base64
import contextlib
import json
import os
import pickle
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard
from safetensors.torch import save_file

from degla.artifacts import read_metrics
from degla.errors import ConfigError
from degla.models import interpolate_weights, load_clip, save_open_clip
from degla.models.hf import save_hf
from degla.training.build import build
from tests.configs.test_configs import tiny
from tests.conftest import make_photo_folder
from tests.helpers.forked import degla_forked, forked_python

TEXTS = ["a dog on a mat", "Two cats, and a Café's dog?!", "x " * 90]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps from weights in a file."""
    folder = tmp_path_factory.mktemp("export")
    photos = make_photo_folder(folder / "photos")
    torch.save(load_clip("degla-tiny").clip.state_dict(), folder / "base.pt")
    base = [f"model.pretrained={folder / 'base.pt'}", "model.quick_gelu=true"]
    found = build(tiny(photos, str(folder / "run"), *base, "optimizer.lr=1e-2", "teacher.decay=0.5"))
    found.trainer.fit(found.module, found.datamodule)
    return found


def folder_of(run) -> Path:
    return Path(run.trainer.default_root_dir)


def exported(tmp_path, *arguments, check=True):
    result = degla_forked(*arguments, "out=out", cwd=tmp_path, program="export")
    assert not check or result.returncode == 0, result.stderr[-3000:]
    return result


def images(size=64):
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def same_in_open_clip(folder: Path, model) -> None:
    """Check that open_clip alone loads the model, with the same features."""
    theirs = open_clip.create_model(f"local-dir:{folder}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    pixels = (images(model.image_size[0]).float() - model.pixel_mean) / model.pixel_std
    with torch.no_grad():
        torch.testing.assert_close(
            theirs.encode_text(tokens, normalize=True), model.encode_text(tokens), atol=1e-5, rtol=0
        )
        ours = model.encode_image(images(model.image_size[0]))
        torch.testing.assert_close(theirs.encode_image(pixels, normalize=True), ours, atol=1e-5, rtol=0)


def same_in_transformers(folder: Path, model) -> None:
    from transformers import CLIPModel, CLIPProcessor

    theirs, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    words = processor.tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    pixels = (images(model.image_size[0]).float() - model.pixel_mean) / model.pixel_std
    with torch.no_grad():
        out = theirs(**words, pixel_values=pixels)
        text, image = model.encode_text(model.tokenizer(TEXTS)), model.encode_image(images(model.image_size[0]))
    torch.testing.assert_close(F.normalize(out.text_embeds, dim=-1), text, atol=1e-5, rtol=0)
    torch.testing.assert_close(F.normalize(out.image_embeds, dim=-1), image, atol=1e-5, rtol=0)
    assert processor.image_processor.crop_size["height"] == model.image_size[0]


def test_for_open_clip_with_a_card(run, tmp_path):
    exported(tmp_path, f"ckpt={folder_of(run)}")
    same_in_open_clip(tmp_path / "out", run.module.student.eval())
    card = (tmp_path / "out/README.md").read_text()
    assert "QuickGELU" in card and "base.pt" in card and "lr: 0.01" in card and "| val/" in card and "photos" in card
    again = exported(tmp_path, f"ckpt={folder_of(run)}", check=False)
    assert again.returncode == 2 and "out exists already" in again.stderr
    ours = load_clip(pretrained=str(tmp_path / "out"))
    torch.testing.assert_close(ours.clip.state_dict(), run.module.student.clip.state_dict(), atol=0, rtol=0)


def code_of_card(folder: Path) -> str:
    return (folder / "README.md").read_text().partition("```python\n")[2].partition("\n```")[0]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("degla-tiny", ["to=open_clip"]),
        ("degla-tiny", ["to=safetensors"]),
        ("degla-tiny", ["to=hf"]),
        ("degla-scenes", ["to=open_clip"]),  # with a vocabulary of its own
        ("ViT-B-32", ["to=safetensors"]),
    ],
    ids=" ".join,
)
def test_the_code_of_the_card_runs(tmp_path, name, arguments):
    (tmp_path / "weights").mkdir()
    pretrained = "plain_clip" if name == "degla-scenes" else None
    model = load_clip(name, pretrained, None if pretrained else True)
    torch.save(model.clip.state_dict(), tmp_path / "weights/some.pt")
    option = {"ViT-B-32": "vit_b_32", "degla-tiny": "tiny", "degla-scenes": "scenes"}[name]
    activation = f"model.quick_gelu={str(model.config['quick_gelu']).lower()}"
    exported(tmp_path, "ckpt=weights/some.pt", f"model={option}", "model.pretrained=null", activation, *arguments)
    code = code_of_card(tmp_path / "out")
    assert ("import open_clip" in code) == (name == "ViT-B-32" or arguments == ["to=open_clip"])
    elsewhere = code.replace('folder = "."', f"folder = {str(tmp_path / 'out')!r}")
    for text, cwd in ((code, tmp_path / "out"), (elsewhere, tmp_path)):
        result = subprocess.run([forked_python(), "-c", text], cwd=cwd, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-3000:]
        assert result.stdout.startswith(("tensor([[", "torch.Size([2"))


def test_the_card_can_be_shared(run, tmp_path):
    """Metadata that the hub reads, terms that are terms, no folder of this machine, files that others may read."""
    before = os.umask(0o022)
    try:
        exported(tmp_path, f"ckpt={folder_of(run)}", "to=hf")
    finally:
        os.umask(before)
    card = ModelCard.load(tmp_path / "out/README.md")
    assert card.data.library_name == "transformers" and card.data.model_name == "degla-tiny fine-tuned with degla"
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    last = read_metrics(folder_of(run) / "metrics.csv")["val/caption_choice"]
    assert results["caption_choice"] == round(last[max(last)], 4)
    assert "contrastive 1, igc 0.1, tgc 0.1, distill 1.28;" in card.text
    assert "image_sees_negatives" not in card.text.partition("## ")[0]
    assert str(folder_of(run).parent) not in card.content and "/tmp" not in card.content
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*") if path.is_file()} == {0o644}


def test_every_run_leaves_a_card(tmp_path):
    degla_forked("experiment=demo", "data.num_scenes=64", "loader.num_workers=0", "loader.global_batch_size=8",
                 "trainer.max_steps=2", "benchmark.scenes.num_items=4", "callbacks.progress_bar=null", "run_dir=run",
                 cwd=tmp_path)  # fmt: skip
    card = ModelCard.load(tmp_path / "run/model/README.md")
    assert "base model: degla-scenes / plain_clip" in card.text and str(tmp_path) not in card.content
    assert {result.dataset_name for result in card.data.eval_results} >= {"scenes"}
    result = subprocess.run([forked_python(), "-c", code_of_card(tmp_path / "run/model")], cwd=tmp_path / "run/model",
                            capture_output=True, text=True)  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]


def test_the_teacher_interpolated_with_the_base_model(run, tmp_path):
    exported(tmp_path, f"ckpt={folder_of(run)}", "weights=ema", "to=safetensors", "wise_ft=0.25")
    assert "of the run's student" in (tmp_path / "out/README.md").read_text()
    base = load_clip("degla-tiny", str(folder_of(run).parent / "base.pt"), True).clip.state_dict()
    wanted = interpolate_weights(base, run.module.teacher.model.clip.state_dict(), 0.25)
    found = load_clip("degla-tiny", str(tmp_path / "out/open_clip_model.safetensors"))
    torch.testing.assert_close(found.clip.state_dict(), wanted, atol=0, rtol=0)


def test_for_transformers(run, tmp_path):
    exported(tmp_path, f"ckpt={folder_of(run)}", "to=hf")
    same_in_transformers(tmp_path / "out", run.module.student.eval())
    assert json.loads((tmp_path / "out/config.json").read_text())["text_config"]["hidden_act"] == "quick_gelu"


def test_for_onnx_with_a_card_whose_code_runs(run, tmp_path):
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    exported(tmp_path, f"ckpt={folder_of(run)}", "to=onnx")
    folder = tmp_path / "out"
    code = code_of_card(folder)
    assert "torch" not in code.replace("PyTorch", "")
    card = (folder / "README.md").read_text()
    assert "## ONNX against PyTorch" in card and "- answers that differ: 0.0 %" in card
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True)
    assert "[[" in result.stdout


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_a_released_vit_b_32(tmp_path, quick_gelu):
    """The authors' layout: a dict of epoch, name, optimizer's state, and weights under names with ``module.``."""
    torch.manual_seed(0)
    model = load_clip("ViT-B-32", quick_gelu=quick_gelu).eval()
    state = {f"module.{name}": value for name, value in model.clip.state_dict().items()}
    torch.save({"epoch": 5, "name": "degla", "state_dict": state, "optimizer": {"state": {}}}, tmp_path / "epoch_5.pt")
    arguments = ["ckpt=epoch_5.pt", "model=vit_b_32", f"model.quick_gelu={str(quick_gelu).lower()}"]
    to, check = ("hf", same_in_transformers) if quick_gelu else ("open_clip", same_in_open_clip)
    exported(tmp_path, *arguments, f"to={to}")
    check(tmp_path / "out", model)


def folder_like_siglip(folder: Path) -> Path:
    """A small model in open_clip's layout with its own preprocessing and a tokenizer of transformers."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "<pad>": 1, "photo": 2, "number": 3, "not": 4}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>").save_pretrained(folder)
    text = {
        "context_length": 12,
        "vocab_size": 8,
        "width": 32,
        "heads": 2,
        "layers": 1,
        "no_causal_mask": True,
        "pool_type": "last",
        "hf_tokenizer_name": "here",
        "tokenizer_kwargs": {"clean": "canonicalize"},
    }
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1}
    config = {"embed_dim": 16, "custom_text": True, "text_cfg": text, "vision_cfg": vision}
    preprocessing = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing}))
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder


def test_a_run_from_a_folder_keeps_its_tokenizer_and_preprocessing(tmp_path):
    source = folder_like_siglip(tmp_path / "source")
    photos = make_photo_folder(tmp_path / "photos", images=4)
    found = build(tiny(photos, str(tmp_path / "run"), f"model.pretrained={source}", "callbacks.export=null"))
    found.trainer.fit(found.module, found.datamodule)
    exported(tmp_path, f"ckpt={tmp_path / 'run'}")
    ours = load_clip(pretrained=str(tmp_path / "out"))
    assert ours.preprocess["resize_mode"] == "squash" and list(ours.preprocess["mean"]) == [0.5] * 3
    torch.testing.assert_close(ours.clip.state_dict(), found.module.student.clip.state_dict(), atol=0, rtol=0)
    texts = ["Photo number 7!", "not a photo"]
    assert torch.equal(open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")(texts), ours.tokenizer(texts))
    assert not ours.tokenizer.is_truncated("photo photo photo")
    (tmp_path / "out").rename(tmp_path / "first")
    exported(tmp_path, f"ckpt={tmp_path / 'run'}", "to=safetensors")
    bare = load_clip(f"local-dir:{source}", str(tmp_path / "out/open_clip_model.safetensors"))
    assert bare.preprocess["resize_mode"] == "squash"


def test_the_preprocessing_of_a_run_is_in_its_checkpoint(run):
    checkpoint = next((folder_of(run) / "checkpoints").glob("*.ckpt"))
    state = torch.load(checkpoint, weights_only=True)
    state["preprocess"] |= {"mean": [0.1, 0.2, 0.3], "resize_mode": "squash"}
    other = folder_of(run).parent / "other.ckpt"
    torch.save(state, other)
    assert load_clip("degla-tiny", str(other)).preprocess["mean"] == [0.1, 0.2, 0.3]


def test_no_tokenizer_runs_a_program(tmp_path):
    source, mark = folder_like_siglip(tmp_path / "source"), tmp_path / "was_here"
    (source / "evil.py").write_text(
        f"open({str(mark)!r}, 'w')\nfrom transformers import PreTrainedTokenizerFast\n"
        "class Evil(PreTrainedTokenizerFast): pass\n"
    )
    described = source / "tokenizer_config.json"
    tokenizer = json.loads(described.read_text()) | {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    described.write_text(json.dumps(tokenizer | {"tokenizer_class": "Evil"}))
    with contextlib.suppress(ConfigError):
        load_clip(f"local-dir:{source}")
    config = json.loads((source / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"]["trust_remote_code"] = True
    (source / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="sets trust_remote_code for its tokenizer, which is not allowed"):
        load_clip(f"local-dir:{source}")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("tower", "change", "message"),
    [
        ("text_cfg", {"no_causal_mask": True}, "this model is built differently"),
        ("vision_cfg", {"ls_init_value": 0.1}, "this model is built differently"),
        ("vision_cfg", {"no_ln_pre": True}, "this model is built differently"),
        ("vision_cfg", {"act_kwargs": {"approximate": "tanh"}}, "this model is built differently"),
        ("vision_cfg", {"norm_kwargs": {"eps": 1e-3}}, None),
        ("text_cfg", {"norm_kwargs": {"eps": 1e-3}}, None),
        ("text_cfg", {"context_length": 20}, None),
    ],
)
def test_export_to_transformers_is_equal_or_refused(tmp_path, tower, change, message):
    model = load_clip("degla-tiny", quick_gelu=False)
    model.config["quick_gelu"] = False
    model.config[tower] |= change
    save_open_clip(model, tmp_path / "source")
    source = json.loads((tmp_path / "source/open_clip_config.json").read_text())
    torch.manual_seed(0)
    rebuilt = open_clip.create_model(f"local-dir:{tmp_path / 'source'}", load_weights=False)
    save_file(rebuilt.state_dict(), tmp_path / "source/open_clip_model.safetensors")
    assert source["model_cfg"][tower].items() >= change.items()
    variant = load_clip(f"local-dir:{tmp_path / 'source'}").eval()
    if message:
        with pytest.raises(ConfigError, match=message):
            save_hf(variant, tmp_path / "out")
    else:
        save_hf(variant, tmp_path / "out")
        same_in_transformers(tmp_path / "out", variant)


class Hub(BaseHTTPRequestHandler):
    """The parts of the hub's API that an upload uses."""

    private = True

    files: dict[str, bytes] = {}
    requests: list[str] = []

    def do_GET(self):
        self.requests.append(f"{self.path} {self.headers['Authorization']}")
        self.answer({"id": "me/mine", "private": self.private, "siblings": []})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.requests.append(f"{self.path} {self.headers['Authorization']}")
        answer = {}
        if self.path == "/api/repos/create":
            assert b"private" in body and b"public" not in body
            answer = {"url": f"http://{self.headers['Host']}/me/mine"}
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            answer = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {"commitUrl": f"http://{self.headers['Host']}/me/mine/commit/0", "commitOid": "0"}
        self.answer(answer)

    def answer(self, answer):
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.mark.parametrize("private", [True, False])
def test_upload(run, tmp_path, monkeypatch, private):
    monkeypatch.setattr(Hub, "private", private)
    monkeypatch.setattr(Hub, "files", {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {**os.environ, "HF_TOKEN": "a secret", "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
                   "HF_HOME": str(tmp_path / "home")}  # fmt: skip
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-m", "degla.export", f"ckpt={folder_of(run)}", "out=out", "push_to_hub=me/mine"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    server.shutdown()
    if not private:
        assert result.returncode == 2 and "me/mine exists already and is public" in result.stderr and not Hub.files
        return
    assert result.returncode == 0, result.stderr[-3000:]
    assert {name: content == (tmp_path / "out" / name).read_bytes() for name, content in Hub.files.items()} == {
        "README.md": True, "open_clip_config.json": True, "open_clip_model.safetensors": True
    }  # fmt: skip
    ours = [line for line in Hub.requests if "agent-harnesses" not in line]  # the library asks for these now and then
    assert ours and all(line.endswith("Bearer a secret") for line in ours), Hub.requests
    assert not any(b"a secret" in path.read_bytes() for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "ckpt is not set"),
        (["ckpt=no.pt"], "there is no file no.pt"),
        (["ckpt=base.pt"], "does not say its architecture: set model=vit_b_32"),
        (["ckpt=RUN", "to=coreml"], "to=coreml must be one of open_clip, safetensors, hf, sentence_transformers, onnx"),
        (["ckpt=RUN", "wise_ft=2"], "wise_ft=2 must be from 0"),
        (["ckpt=base.pt", "model=tiny", "model.quick_gelu=true", "wise_ft=0.5"], "set model=... model.pretrained=..."),
        (["ckpt=base.pt", "model=scenes", "model.quick_gelu=true", "to=hf"], "does not fit model.name=degla-scenes"),
        (["ckpt=RUN", "push_to_hub=me/mine"], "set HF_TOKEN"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (tmp_path / "base.pt").symlink_to(folder_of(run).parent / "base.pt")
    result = exported(tmp_path, *[a.replace("RUN", str(folder_of(run))) for a in arguments], check=False)
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr, result.stderr


def test_only_an_ema_teacher_can_be_exported(tmp_path, run):
    state = {key: value for key, value in run.module.state_dict().items() if key.startswith("student.")}
    torch.save({"state_dict": state}, tmp_path / "alone.ckpt")
    result = exported(tmp_path, "ckpt=alone.ckpt", "model=tiny", "weights=ema", check=False)
    assert result.returncode == 2 and "has no EMA teacher; set weights=student" in result.stderr


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_program_in_a_checkpoint_is_not_run(run, tmp_path, form):
    mark, path = tmp_path / "was_here", tmp_path / "step-00000001.ckpt"
    content = {"state_dict": run.module.state_dict(), "extra": Evil(mark)}
    if form == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    photos = folder_of(run).parent / "photos"
    results = [
        exported(tmp_path, f"ckpt={path}", "model=tiny", check=False),
        degla_forked("model=tiny", f"data.path={photos}", f"model.pretrained={path}", "loader.global_batch_size=4",
                     "trainer.accelerator=cpu", cwd=tmp_path),
        degla_forked("model=tiny", f"data.path={photos}", f"ckpt_path={path}", "loader.global_batch_size=4",
                     "trainer.accelerator=cpu", "loader.num_workers=0", cwd=tmp_path),
    ]  # fmt: skip
    for result in results:
        assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr[-3000:]
    assert not mark.exists()
