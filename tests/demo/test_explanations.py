"""Scores, words, relevance and suggestions: properties that hold for any model."""

import pytest
import torch

from degla.api.model import Model, load
from degla.data.images import ImageLimits
from degla.demo.console import _plain
from degla.demo.examples import example_scenes
from degla.demo.page_parts import maps_html, message, result_html, words_html
from degla.demo.relevance import relevance
from degla.demo.scores import Scores, WordEffect, read_image, score_captions, word_effects
from degla.demo.sentences import headline
from degla.demo.suggest import suggest_negatives
from degla.models import load_clip


@pytest.fixture(scope="module")
def model():
    loaded = load("scenes")
    loaded.clip.requires_grad_(False)
    return loaded


@pytest.fixture(scope="module")
def image():
    return read_image(example_scenes(1)[0].image_bytes, ImageLimits())


def test_shares_are_the_softmax_with_the_models_temperature(model, image):
    captions = ["a red circle", "a blue circle", "a heart"]
    scores = score_captions(model, image, captions)
    features = model.encode_image([image]), model.encode_text(captions)
    expected = torch.softmax(model.clip.logit_scale().item() * (features[0] @ features[1].T)[0], dim=0)
    torch.testing.assert_close(scores.shares, expected)
    assert abs(scores.shares.sum().item() - 1) < 1e-5


def test_a_words_effect_is_the_difference_that_it_makes(model, image):
    caption = "a red circle below a white square"
    effects = word_effects(model, image, caption)
    assert [effect.word for effect in effects] == caption.split()
    without_red = model.score([image], [caption, "a circle below a white square"])[0]
    assert effects[1].effect == pytest.approx((without_red[0] - without_red[1]).item(), abs=1e-6)
    assert effects[1].effect > 0  # the circle is red
    assert len(word_effects(model, image, "word " * 80)) == 64


@pytest.mark.parametrize("name", ["degla-scenes", "ViT-B-32", "RN50"])
def test_relevance_adds_up_to_the_difference_of_the_scores(name, image):
    """The property that defines integrated gradients, for both kinds of image towers and other input sizes."""
    torch.manual_seed(0)
    clip = load_clip(name, "plain_clip" if name == "degla-scenes" else None, None if name == "degla-scenes" else True)
    model = Model(clip.eval().requires_grad_(False), "x")
    caption = "a red circle below a white square"
    found = relevance(model, image, caption, steps=64 if name == "degla-scenes" else 8)
    height, width = clip.image_size
    assert found.view.shape == (3, height, width) and found.pixels.shape == (height, width)
    pixels = found.view.float()[None]
    text = clip.encode_text(clip.tokenizer([caption]))
    with torch.no_grad():
        full, empty = (
            (clip.encode_image(x) @ text.T).item()
            for x in (pixels, pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels))
        )
    assert found.pixels.sum().item() == pytest.approx(full - empty, abs=0.02 if name == "degla-scenes" else 0.03)
    torch.testing.assert_close(found.cells.sum(), found.pixels.sum(), atol=1e-4, rtol=1e-4)


def test_the_score_falls_most_where_relevance_is_highest(model):
    """The deletion test: the most relevant fifth of the cells, painted over, costs more than any random fifth."""
    generator = torch.Generator().manual_seed(0)
    for example in example_scenes(4):
        pixels = read_image(example.image_bytes, ImageLimits())
        found = relevance(model, pixels, example.caption)
        height, width = found.view.shape[1:]
        mean = found.view.float().mean(dim=(1, 2), keepdim=True).byte()

        def score_without(cells, view=found.view, mean=mean, size=(height, width), caption=example.caption):
            mask = torch.nn.functional.interpolate(cells[None, None].float(), size, mode="nearest")[0] > 0
            return model.score([torch.where(mask, mean, view)], caption).item()

        count = found.cells.numel() // 5
        best = torch.zeros(found.cells.numel(), dtype=torch.bool)
        best[found.cells.flatten().topk(count).indices] = True
        random = [torch.randperm(len(best), generator=generator)[:count] for _ in range(10)]
        others = [torch.zeros_like(best).index_fill(0, chosen, True) for chosen in random]
        without_best = score_without(best.view_as(found.cells))
        assert without_best < min(score_without(other.view_as(found.cells)) for other in others), example.caption


def test_suggestions_are_checked_negatives():
    negatives = suggest_negatives("two brown dogs chase a white cat on the grass")
    kinds = [negative.type for negative in negatives]
    assert {"swap_nouns", "swap_adjectives", "replace_adjectives", "change_count"} <= set(kinds)
    assert len({negative.text for negative in negatives}) == len(negatives) and kinds[-1] == "reshuffle_order"
    assert suggest_negatives("hello") == []


def test_examples_are_true_and_always_the_same():
    first, second = example_scenes(6), example_scenes(6)
    assert first == second and len({example.image_bytes for example in first}) == 6
    for example in first:
        assert example.caption not in example.negatives and len(example.negatives) >= 2


def test_headlines():
    def scores(*cosines):
        values = torch.tensor(cosines, dtype=torch.float32)
        return Scores(values, values.softmax(dim=0))

    captions = ["a", "b"]
    assert headline({"base": scores(1, 0), "tuned": scores(1, 0)}, captions) == "Both models prefer 'a'."
    assert headline({"base": scores(1, 0), "tuned": scores(0, 1)}, captions) == (
        "The base model prefers 'a'. The tuned model prefers 'b'."
    )
    assert headline({"tuned": scores(0, 1)}, captions) == "The model prefers 'b'."
    assert "0.250 by the tuned model; a second caption" in headline({"tuned": scores(0.25)}, ["a"])


def test_texts_are_escaped_on_the_page_and_the_console(model, image):
    evil = "<script>alert(1)</script>"
    scores = {"tuned": score_captions(model, image, [evil, "a"])}
    pages = [message(evil), result_html(scores, [evil, "a"]), words_html({"tuned": [WordEffect(evil, 0.1)]})]
    pages.append(maps_html({"tuned": relevance(model, image, "a", steps=2)}))
    for text in pages:
        assert "<script" not in text
        assert "http" not in text
    assert "data:image/png;base64," in pages[-1] and "approximate" in pages[-1]
    assert _plain("[red]a[/]\nb") == "\\[red]a\\[/] b"
