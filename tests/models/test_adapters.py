"""LoRA on the towers: equal to the base at step 0, equal to its merged form afterwards, and files that peft loads."""

import copy
import json
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from torch import nn
from transformers import CLIPModel

from degla.errors import CheckpointError, ConfigError
from degla.models import ClipModel, Teacher, interpolate_weights, load_clip, save_open_clip
from degla.models.adapters import Lora, apply_adapter, save_adapter
from degla.models.checkpoints import read_weights
from degla.models.hf import save_hf
from degla.models.lora_state import holds_lora

ALL = ["attn.in_proj", "attn.out_proj", "mlp.c_fc", "mlp.c_proj"]
EVERYWHERE = {"image": [*ALL, "conv1"], "text": ALL}
TEXTS = ["a dog", "two cats on a mat", "two cats on a dog"]


def images(size=64):
    return torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def features(model: ClipModel):
    return model(images(model.image_size[0]), model.tokenizer(TEXTS))[:3]


def with_lora(name="degla-tiny", **settings) -> tuple[ClipModel, ClipModel]:
    """Return a model with an adapter, and the model that it was made from."""
    torch.manual_seed(0)
    model = load_clip(name).eval()
    base = copy.deepcopy(model)
    Lora(**settings).attach(model)
    return model, base


def moved(model: ClipModel) -> ClipModel:
    """Give the trained B matrices values, as training does."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name and value.requires_grad:
                value.normal_(0, 0.1, generator=generator)
    return model


@pytest.mark.parametrize("settings", [{}, EVERYWHERE, {"image": []}, {"text": ["mlp.c_fc"], "dropout": 0.1}], ids=str)
def test_step_0_is_the_base_to_the_bit(settings):
    model, base = with_lora(**settings)
    model.train()
    for ours, expected in zip(features(model), features(base), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_is_that_of_the_merged_weights(dtype):
    """Chain rule by hand: dA = s B^T dW and dB = s dW A^T, with dW of the model that has the merged weights."""
    model, base = with_lora(rank=3, alpha=6.0, **EVERYWHERE)
    moved(model)
    base.clip.load_state_dict(model.open_clip_state())
    for candidate in (model, base):
        image, text, _ = features(candidate)
        (image * torch.linspace(-1, 1, image.numel()).view_as(image)).sum().add((text**3).sum()).backward()
    weights = dict(base.clip.named_parameters())
    checked = 0
    for name, first in model.clip.named_parameters():
        if "lora_A" not in name:
            continue
        layer = name.removesuffix(".lora_A.default.weight")
        plain = layer.replace(".base_layer", "")
        gradient = (weights.get(f"{plain}.weight", weights.get(f"{plain}.in_proj_weight"))).grad
        second = model.clip.get_parameter(f"{layer}.lora_B.default.weight")
        gradient = gradient.flatten(1)
        torch.testing.assert_close(first.grad.flatten(1), 2 * second.flatten(1).T @ gradient, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(second.grad.flatten(1), 2 * gradient @ first.flatten(1).T, rtol=1e-3, atol=1e-5)
        checked += 1
    assert checked == 1 + 4 * 4 + 2 * 4  # conv1, the image tower's four blocks, the text tower's two


def test_only_the_adapter_is_trained():
    model, _ = with_lora(image=["attn.out_proj"], text=["attn.in_proj"])
    trained = {name for name, value in model.clip.named_parameters() if value.requires_grad}
    image = {f"visual.transformer.resblocks.{n}.attn.base_layer.out_proj" for n in range(4)}
    text = {f"transformer.resblocks.{n}.attn" for n in range(2)}
    assert trained == {f"{layer}.lora_{matrix}.default.weight" for layer in image | text for matrix in "AB"}
    model, _ = with_lora(train_logit_scale=True)
    assert model.clip.logit_scale.requires_grad


def test_scaling_is_alpha_over_rank():
    """FSC-CLIP's rank 4 and alpha 1 make 0.25."""
    model, base = with_lora(**EVERYWHERE)
    assert model.lora.scaling == 0.25
    layer = moved(model).clip.transformer.resblocks[0].mlp.c_fc
    x = torch.randn(5, layer.in_features)
    low_rank = x @ layer.lora_A.default.weight.T @ layer.lora_B.default.weight.T
    torch.testing.assert_close(layer(x), base.clip.transformer.resblocks[0].mlp.c_fc(x) + 0.25 * low_rank)


@pytest.mark.parametrize("settings", [{}, EVERYWHERE], ids=["default", "everywhere"])
def test_the_merged_model_computes_the_same_in_open_clip_and_transformers(settings, tmp_path):
    model, base = with_lora(**settings)
    image, text, _ = features(moved(model))
    assert (image - features(base)[0]).abs().max() > 1e-3
    save_open_clip(model, tmp_path / "open_clip")
    plain = open_clip.create_model(f"local-dir:{tmp_path / 'open_clip'}").eval()
    pixels = (images().float() - model.pixel_mean) / model.pixel_std
    tokens = model.tokenizer.tokenize(TEXTS)
    save_hf(model, tmp_path / "hf")
    hf = CLIPModel.from_pretrained(tmp_path / "hf").eval()
    with torch.no_grad():
        of_hf = hf(pixel_values=pixels, input_ids=tokens)
        torch.testing.assert_close(F.normalize(plain.encode_image(pixels), dim=-1), image, atol=1e-6, rtol=0)
        torch.testing.assert_close(F.normalize(plain.encode_text(tokens), dim=-1), text, atol=1e-6, rtol=0)
        torch.testing.assert_close(of_hf.image_embeds, image, atol=1e-6, rtol=0)
        torch.testing.assert_close(of_hf.text_embeds, text, atol=1e-6, rtol=0)


def open_clip_base(base: ClipModel) -> nn.Module:
    plain = open_clip.create_model("degla-tiny", force_quick_gelu=base.config["quick_gelu"]).eval()
    plain.load_state_dict(base.clip.state_dict() | {"logit_scale": base.clip.logit_scale.detach().reshape(())})
    return plain


def counts_out_proj_twice() -> bool:
    """Return whether this version of peft has its fault 3774."""
    attention = nn.Sequential(nn.MultiheadAttention(4, 1))
    before = attention[0].out_proj.weight.clone()
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"], init_lora_weights=False), attention)
    delta = attention[0].base_layer.out_proj.get_delta_weight("default")
    attention[0].merge()
    added = attention[0].base_layer.out_proj.base_layer.weight - before
    return bool((added - delta).abs().max() > 1e-4)


@pytest.mark.parametrize("settings", [{}, {"image": ["attn.in_proj"], "text": ["attn.in_proj"]}, EVERYWHERE], ids=str)
def test_peft_loads_the_adapter_onto_open_clip(settings, tmp_path, recwarn):
    model, base = with_lora(rank=3, alpha=2.0, **settings)
    moved(model)
    if counts_out_proj_twice():
        halved = {n: v / 2 if ".out_proj.lora_B" in n else v for n, v in model.clip.state_dict().items()}
    else:
        halved = model.clip.state_dict()
    save_adapter(model.lora, halved, tmp_path)
    adapted = PeftModel.from_pretrained(open_clip_base(base), tmp_path)
    assert not [warning for warning in recwarn if "adapter keys" in str(warning.message)]
    with torch.no_grad():
        pixels = (images().float() - model.pixel_mean) / model.pixel_std
        image = F.normalize(adapted.encode_image(pixels), dim=-1)
        text = F.normalize(adapted.encode_text(model.tokenizer.tokenize(TEXTS)), dim=-1)
    torch.testing.assert_close(image, features(model)[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(text, features(model)[1], atol=1e-5, rtol=0)


def test_the_adapter_is_applied_without_peft(tmp_path):
    model, base = with_lora(rank=3, alpha=2.0, **EVERYWHERE)
    save_adapter(moved(model).lora, model.clip.state_dict(), tmp_path)
    plain = open_clip_base(base)
    apply_adapter(plain, tmp_path)
    merged = model.open_clip_state()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(value, merged[name].reshape(value.shape), rtol=0, atol=0)
    other = open_clip.create_model("degla-scenes")
    with pytest.raises(CheckpointError, match="is not an adapter of this model"):
        apply_adapter(other, tmp_path)


def test_a_frozen_teacher_is_the_base_and_has_no_weights_of_its_own():
    model, base = with_lora(**EVERYWHERE)
    teacher = Teacher(model, decay=None)
    moved(model).train()
    teacher.update(model)
    with torch.no_grad():
        for ours, expected in zip(teacher(images(), model.tokenizer(TEXTS))[:3], features(base), strict=True):
            assert torch.equal(ours, expected)
    own = {value.data_ptr() for value in teacher.model.parameters()}
    assert own <= {value.data_ptr() for value in model.parameters()}
    assert not teacher.model.training and not holds_lora(teacher.model.clip.state_dict())
    assert teacher.model.clip.state_dict().keys() == base.clip.state_dict().keys()


def test_a_frozen_teacher_keeps_its_logit_scale():
    model, _ = with_lora(train_logit_scale=True)
    teacher = Teacher(model, decay=None)
    with torch.no_grad():
        model.clip.logit_scale.add_(1)
    assert teacher.model.clip.logit_scale.item() == pytest.approx(model.clip.logit_scale.item() - 1)


def test_an_ema_teacher_averages_the_adapter_and_shares_the_base():
    model, _ = with_lora()
    teacher = Teacher(model, decay=0.9)
    start = {name: value.clone() for name, value in teacher.model.named_parameters()}
    moved(model)
    teacher.update(model)
    teacher.update(model)
    students = dict(model.named_parameters())
    for name, value in teacher.model.named_parameters():
        assert (value is students[name]) == (not students[name].requires_grad)
        torch.testing.assert_close(value, start[name] * 0.81 + students[name] * 0.19)
    assert not any(value.requires_grad for value in teacher.parameters())
    assert any(value.requires_grad for value in model.parameters())


def test_wise_ft_is_on_the_merged_weights():
    model, base = with_lora(**EVERYWHERE)
    between = interpolate_weights(base.open_clip_state(), moved(model).open_clip_state(), 0.5)
    name = "transformer.resblocks.1.attn.in_proj_weight"
    torch.testing.assert_close(between[name], (base.clip.state_dict()[name] + model.open_clip_state()[name]) / 2)
    base.clip.load_state_dict(between)


def test_weights_of_a_checkpoint_are_merged_when_they_are_read(tmp_path):
    model, _ = with_lora(rank=2, alpha=3.0)
    state = {f"student.clip.{name}": value for name, value in moved(model).clip.state_dict().items()}
    adapter = {"_target_": "degla.models.adapters.Lora", "rank": 2, "alpha": 3.0}
    torch.save({"state_dict": state, "hyper_parameters": {"adapter": adapter}}, tmp_path / "a.ckpt")
    merged = model.open_clip_state()
    for name, value in read_weights(tmp_path / "a.ckpt").state.items():
        assert torch.equal(value, merged[name]), name
    torch.save({"state_dict": state}, tmp_path / "b.ckpt")
    with pytest.raises(CheckpointError, match="holds a LoRA but not its rank and alpha"):
        read_weights(tmp_path / "b.ckpt")


def test_autocast_and_gradient_checkpointing():
    torch.manual_seed(0)
    plain = load_clip("degla-tiny")
    gradients = []
    for recompute in (False, True):
        model = copy.deepcopy(plain)
        torch.manual_seed(0)
        Lora(**EVERYWHERE).attach(model)
        model.clip.set_grad_checkpointing(recompute)
        moved(model).train()
        with torch.autocast("cpu", torch.bfloat16):
            image, text, _ = features(model)
        (image.sum() + text.sum()).backward()
        gradients.append([value.grad for value in model.parameters() if value.requires_grad])
    for first, second in zip(*gradients, strict=True):
        assert first is not None and torch.equal(first, second)


def like_siglip(folder: Path) -> str:
    """Write a model whose text tower calls its attention with all positions, and whose image tower is timm's."""
    text = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2, "no_causal_mask": True}
    vision = {"image_size": 32, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"}
    config = {"embed_dim": 64, "custom_text": True, "text_cfg": text | {"pool_type": "last"}, "vision_cfg": vision}
    content = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return f"local-dir:{folder}"


def test_a_tower_that_does_not_pack_texts(tmp_path):
    model, base = with_lora(like_siglip(tmp_path), **EVERYWHERE)
    tokens = torch.randint(1, 100, (2, 12))
    pixels = images(32)
    with torch.no_grad():
        assert torch.equal(model.encode_text(tokens), base.encode_text(tokens))
        assert torch.equal(model.encode_image(pixels), base.encode_image(pixels))
    moved(model)
    model.encode_text(tokens).sum().backward()
    attention = model.clip.text.transformer.resblocks[0].attn
    assert attention.lora_A.default.weight.grad.abs().max() > 0
    assert attention.base_layer.out_proj.lora_A.default.weight.grad.abs().max() > 0
    base.clip.load_state_dict(model.open_clip_state())
    with torch.no_grad():
        torch.testing.assert_close(model.encode_text(tokens), base.encode_text(tokens), atol=1e-6, rtol=0)
        torch.testing.assert_close(model.encode_image(pixels), base.encode_image(pixels), atol=1e-6, rtol=0)


def test_batch_norm_of_a_resnet_stays():
    model, _ = with_lora("RN50", image=[])
    model.train()
    before = model.clip.visual.bn1.running_mean.clone()
    features(model)
    assert torch.equal(model.clip.visual.bn1.running_mean, before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "adapter.rank=0 must be a whole number of 1 or more"),
        ({"alpha": 0.0}, "adapter.alpha=0.0 must be a number above 0"),
        ({"dropout": 1.0}, "adapter.dropout=1.0 must be a number of 0 or more and less than 1"),
        ({"image": ["attn"]}, "adapter.image: attn must be one of attn.in_proj, attn.out_proj"),
        ({"text": ["conv1"]}, "adapter.text: conv1 must be one of"),
        ({"image": [], "text": []}, "adapter.image and adapter.text are both empty"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        Lora(**settings)


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ({"name": "RN50"}, {}, r"the image tower of RN50 has no layer attn.in_proj.*adapter.image=\[\]"),
        ({"name": "degla-tiny", "unlocked_image_groups": 0}, {}, "freezes the towers itself: set model.unlocked_image"),
    ],
    ids=["no such layer", "frozen already"],
)
def test_models_that_cannot_be_adapted(model, settings, message):
    with pytest.raises(ConfigError, match=message):
        Lora(**settings).attach(load_clip(**model))


def test_dropout_is_refused_where_it_could_not_be_applied(tmp_path):
    model = load_clip(like_siglip(tmp_path))
    with pytest.raises(ConfigError, match=r"adapter.dropout=0.1 needs a tower like CLIP's, which the text tower of"):
        Lora(image=[], dropout=0.1).attach(model)
    Lora(image=["attn.in_proj"], text=["mlp.c_fc"], dropout=0.1).attach(model)
