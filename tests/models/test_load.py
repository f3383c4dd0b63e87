"""Every form of weights a user may have, and the refusals."""

import copy
import functools
import json

import open_clip
import pytest
import torch
from open_clip.transformer import ResidualAttentionBlock
from safetensors.torch import save_file
from torch import nn

from degla.errors import CheckpointError, ConfigError
from degla.models import load_clip, save_open_clip


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    model = load_clip("degla-tiny")
    with torch.no_grad():  # values that float16 cannot hold exactly, because exact ones look like OpenAI's
        model.clip.logit_scale.fill_(3.3)
    return model


@pytest.fixture(scope="module")
def state(tiny):
    return {name: value.clone() for name, value in tiny.clip.state_dict().items()}


def same(model, state):
    mine = model.clip.state_dict()
    return mine.keys() == state.keys() and all(torch.equal(mine[name], state[name]) for name in state)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "student.", "student.clip.", "module.model."])
@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
def test_pytorch_files(state, tmp_path, prefix, wrap):
    weights = {prefix + name: value for name, value in state.items()}
    if wrap == "state_dict":  # what a Lightning checkpoint holds besides
        weights |= (
            {"teacher.model.x": torch.ones(1), "objective.thresholds": torch.ones(4)} if "student" in prefix else {}
        )
    path = tmp_path / "weights.pt"
    torch.save({wrap: weights, "epoch": 3} if wrap else weights, path)
    assert same(load_clip("degla-tiny", str(path), quick_gelu=False), state)


def test_safetensors(state, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    assert same(load_clip("degla-tiny", str(path), quick_gelu=False), state)


def test_open_clip_folder_there_and_back(tiny, state, tmp_path):
    folder = save_open_clip(tiny, tmp_path / "model")
    for model in (load_clip(pretrained=str(folder)), load_clip(f"local-dir:{folder}")):
        assert same(model, state) and model.config["quick_gelu"] is False
    theirs = open_clip.create_model(f"local-dir:{folder}")
    images, tokens = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), tiny.tokenizer(["a dog", "two cats"])
    ours = tiny.eval()(images, tokens)
    pixels = (images.float() / 255 - torch.tensor(tiny.preprocess["mean"]).view(1, 3, 1, 1)) / torch.tensor(
        tiny.preprocess["std"]
    ).view(1, 3, 1, 1)
    full = open_clip.get_tokenizer(f"local-dir:{folder}")(["a dog", "two cats"])
    theirs_out = theirs.eval()(pixels, full)
    for mine, other in zip(ours[:2], theirs_out[:2], strict=True):
        torch.testing.assert_close(mine, other, atol=2e-6, rtol=1e-5)


def test_hub_repository_from_the_local_cache(tiny, state, tmp_path):
    """The hub's own cache layout: refs, and a snapshot folder a commit."""
    folder = tmp_path / "models--me--my-clip"
    save_open_clip(tiny, folder / "snapshots" / "abc123")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc123")
    import huggingface_hub.constants as hub

    before, hub.HF_HUB_CACHE = hub.HF_HUB_CACHE, str(tmp_path)
    try:
        assert same(load_clip("hf-hub:me/my-clip"), state)
    finally:
        hub.HF_HUB_CACHE = before


class Archive(torch.nn.Module):
    """What OpenAI published: the weights under CLIP's names, beside three constants."""

    def __init__(self, clip):
        super().__init__()
        for name, module in clip.named_children():
            self.add_module(name, module)
        for name, parameter in clip.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, value in {"input_resolution": 64, "context_length": 77, "vocab_size": 49408}.items():
            self.register_buffer(name, torch.tensor(value))

    def forward(self, image):
        return self.visual(image)


@pytest.mark.filterwarnings("ignore")
def test_openai_torchscript_archive(tmp_path):
    torch.manual_seed(0)
    model = open_clip.create_model("degla-tiny", force_quick_gelu=True).eval()
    path = tmp_path / "ViT.pt"
    torch.jit.trace(Archive(model).eval(), torch.zeros(1, 3, 64, 64), check_trace=False).save(str(path))
    assert "input_resolution" in torch.jit.load(str(path)).state_dict()
    loaded = load_clip("degla-tiny", str(path))
    assert loaded.config["quick_gelu"] is True
    assert all(torch.equal(loaded.clip.get_parameter(n).squeeze(), p.squeeze()) for n, p in model.named_parameters())
    with pytest.raises(ConfigError, match=r"model.quick_gelu=true"):
        load_clip("degla-tiny", str(path), quick_gelu=False)


def test_activation_must_be_set_where_nothing_records_it(state, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    with pytest.raises(ConfigError, match=r"model\.quick_gelu=true for OpenAI"):
        load_clip("degla-tiny", str(path))


def test_recorded_activation_contradicted(tiny, tmp_path):
    folder = save_open_clip(tiny, tmp_path / "model")
    for pretrained in (str(folder), str(folder / "open_clip_model.safetensors")):
        with pytest.raises(ConfigError, match=r"set model\.quick_gelu=false"):
            load_clip("degla-tiny", pretrained, quick_gelu=True)


def test_weights_that_look_like_openais_are_recognised(state, tmp_path):
    """Converted files of OpenAI's weights record nothing, but every value is exact in float16."""
    path = tmp_path / "weights.pt"
    half = {name: value.half().float() for name, value in state.items()}
    half["logit_scale"] = torch.tensor(4.6052)
    torch.save(half, path)
    with pytest.raises(ConfigError, match=r"set model\.quick_gelu=true"):
        load_clip("degla-tiny", str(path), quick_gelu=False)
    assert load_clip("degla-tiny", str(path)).config["quick_gelu"] is True


def test_tag_contradicted_before_or_after_download():
    """A tag that cannot be downloaded says where to get the file and which key to set."""
    with pytest.raises(ConfigError, match=r"huggingface\.co/.*model\.pretrained=/path"):
        load_clip("ViT-B-32", "openai", quick_gelu=True, cache_dir="/nonexistent/cache")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "ViT-B-23"}, "did you mean ViT-B-32"),
        ({"name": "ViT-B-32", "pretrained": "opnai"}, "its tags: .*openai"),
        ({"name": "ViT-B-32", "pretrained": "openai/clip"}, r"model\.name=hf-hub:openai/clip model\.pretrained=null"),
        ({"name": "ViT-B-32", "pretrained": "runs/missing.pt"}, r"\(its tags: .*\)$"),
        ({"name": "ViT-B-32", "pretrained": "/runs/missing"}, r"\(its tags: .*\)$"),
        ({"name": "openai/clip"}, r"unknown to open_clip; if it is a repository .* model\.name=hf-hub:openai/clip"),
        ({"name": "?"}, "unknown to open_clip; did you mean ViT-B-32"),
        ({"name": "coca_ViT-B-32"}, "CoCa"),
        ({"name": "local-dir:/nowhere"}, "cannot be loaded|holds no weights"),
        ({"name": "degla-tiny", "unlocked_image_groups": -1}, r"model\.unlocked_image_groups=-1 must be 0"),
        ({"name": "degla-tiny", "unlocked_text_groups": -2}, r"model\.unlocked_text_groups=-2 must be 0"),
    ],
)
def test_refusals_name_the_fix(arguments, message):
    with pytest.raises(ConfigError, match=message):
        load_clip(**arguments)


def test_unreadable_files_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit('code ran')",))

    evil = tmp_path / "evil.pt"
    torch.save({"state_dict": Evil()}, evil)
    page = tmp_path / "page.pt"
    page.write_text("<html>not found</html>")
    other = tmp_path / "other.pt"
    torch.save({"fc.weight": torch.ones(2)}, other)
    for path in (evil, page, other):
        with pytest.raises(CheckpointError, match=r"model\.pretrained"):
            load_clip("degla-tiny", str(path), quick_gelu=False)


def test_weights_of_another_architecture(state, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"does not fit model\.name=RN50"):
        load_clip("RN50", str(path), quick_gelu=False)


def test_freezing():
    frozen = load_clip("degla-tiny", unlocked_image_groups=0, unlocked_text_groups=2)
    trained = {name for name, parameter in frozen.clip.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith("visual.") for name in trained)
    assert any("resblocks.1" in name for name in trained) and not any("resblocks.0" in name for name in trained)


def test_gradient_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    model = load_clip("degla-tiny")
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    tokens = model.tokenizer(["a dog", "two cats"])
    gradients = []
    for enable in (False, True):
        model.clip.set_grad_checkpointing(enable)
        model.zero_grad()
        image, text, scale = model(images, tokens)[:3]
        (scale * (image * text).sum()).backward()
        gradients.append(model.clip.visual.conv1.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_config_is_json(tiny, tmp_path):
    folder = save_open_clip(tiny, tmp_path / "model")
    config = json.loads((folder / "open_clip_config.json").read_text())
    assert config["model_cfg"]["quick_gelu"] is False and "mean" in config["preprocess_cfg"]


def test_a_custom_vocabulary_is_saved_with_the_model(tmp_path):
    """degla-scenes -> folder -> degla again, and plain open_clip with the file named."""
    from degla.data.scenes.words import byte_pair_merges, vocabulary

    model = load_clip("degla-scenes", "plain_clip").eval()
    texts = ["a small striped red circle is inside the blue square", "the digit seven", "quite another text!"]
    assert all(len(model.tokenizer.tokenize.encode(word)) == 1 for word in vocabulary())
    assert model.clip.vocab_size == 512 + len(byte_pair_merges(vocabulary())) + 2
    assert model.tokenizer(texts).max() == model.clip.vocab_size - 1  # the end of a text, where its feature is read
    folder = save_open_clip(model, tmp_path / "model")
    again = load_clip(pretrained=str(folder)).eval()
    with torch.no_grad():
        expected = model.encode_text(model.tokenizer(texts))
        assert torch.equal(again.encode_text(again.tokenizer(texts)), expected)
        plain = open_clip.create_model(f"local-dir:{folder}").eval()
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}", bpe_path=str(folder / "degla-scenes.bpe.gz"))
        features = torch.nn.functional.normalize(plain.encode_text(tokenizer(texts)), dim=-1)
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
    (folder / "degla-scenes.bpe.gz").unlink()
    with pytest.raises(ConfigError, match=r"degla-scenes\.bpe\.gz, which is not in"):
        load_clip(pretrained=str(folder))


def test_the_merges_file_matches_the_built_in_vocabulary(tmp_path):
    from degla.data.scenes.words import write_merges
    from degla.models.source import ARCHITECTURES

    write_merges(tmp_path / "x.gz")
    assert (tmp_path / "x.gz").read_bytes() == (ARCHITECTURES / "degla-scenes.bpe.gz").read_bytes()


def test_bundled_weights_are_small_and_named_in_messages():
    from degla.models.source import BUNDLED_WEIGHTS

    file = BUNDLED_WEIGHTS / "degla-scenes" / "plain_clip.safetensors"
    assert file.stat().st_size < 12_000_000
    with pytest.raises(ConfigError, match="its tags: plain_clip"):
        load_clip("degla-scenes", "plain_klip")


def test_compiled_blocks_are_in_place_and_few(tiny, monkeypatch):
    """Same names, same features; other numbers and lengths of texts do not compile again."""
    plain = load_clip("degla-tiny")
    plain.load_state_dict(tiny.state_dict())
    compiled = copy.deepcopy(plain)
    graphs = []

    def backend(graph, inputs):  # compiling with Inductor is slow, and PyTorch tests it
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(ResidualAttentionBlock, "compile", functools.partialmethod(nn.Module.compile, backend=backend))
    compiled.compile_blocks()
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    counts = []
    for captions in (12, 9, 31, 24, 17, 28, 15):
        texts = [" ".join(["a dog and a red cat"] * (1 + i % 3)) + f" {i}" for i in range(captions)]
        tokens = plain.tokenizer(texts)
        torch.testing.assert_close(compiled.encode_text(tokens), plain.encode_text(tokens), rtol=1e-4, atol=1e-5)
        images = torch.randint(0, 256, (captions, 3, 64, 64), dtype=torch.uint8)
        torch.testing.assert_close(compiled.encode_image(images), plain.encode_image(images), rtol=1e-4, atol=1e-5)
        counts.append(len(graphs))
    assert counts[-1] == counts[-3] and counts[-1] <= 3 * counts[0]
