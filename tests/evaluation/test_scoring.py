"""Scores on small cases made by hand; a model that says nothing must not win."""

import pytest
import torch
import torch.nn.functional as F

from degla.evaluation import choice_score, zero_shot_score
from degla.evaluation.text_only import text_only_accuracy


def unit(*rows):
    return F.normalize(torch.tensor(rows, dtype=torch.float32), dim=-1)


def test_choice_by_hand():
    images = unit([1, 0], [1, 0], [1, 0], [0, 1])
    captions = unit([1, 0], [1, 1], [1, 1], [1, 1])
    foils = torch.stack([unit([0, 1], [0, 1]), unit([0, 1], [1, 0]), unit([1, 1], [0, 1]), unit([1, 0], [1, 0])])
    score = choice_score(images, captions, foils)  # right, wrong, tie, right
    assert score == (0.5, 4, 1)


def test_a_constant_encoder_scores_nothing():
    same = unit([1, 2, 3]).expand(7, 3)
    assert choice_score(same, same, same[:, None].expand(7, 2, 3)) == (0.0, 7, 7)
    assert zero_shot_score(same, torch.arange(7), same[:, None]) == (0.0, 7, 7)


def test_a_tie_but_for_rounding_is_a_tie():
    image = F.normalize(torch.rand(50, 64), dim=-1)
    text = F.normalize(torch.rand(50, 64), dim=-1)
    score = choice_score(image, text, (text + 1e-8 * torch.randn(50, 64))[:, None])
    assert score.accuracy == 0 and score.ties == 50


def test_zero_shot_averages_the_prompts_of_a_class():
    prompts = torch.stack([unit([1, 0, 0], [1, 1, 0]), unit([0, 0, 1], [0, 1, 1])])
    classifier = F.normalize(prompts.mean(1), dim=-1)
    images = unit([1, 0.2, 0], [0, 0.1, 1], [0, 1, 0.9], [1, 0, 1.5])
    labels = torch.tensor([0, 1, 0, 1])
    expected = [int((classifier @ image).argmax() == label) for image, label in zip(images, labels, strict=True)]
    assert expected == [1, 1, 0, 1]
    assert zero_shot_score(images, labels, prompts) == (0.75, 4, 0)


def test_text_only_finds_what_gives_the_answer_away_and_nothing_else():
    words = ["red", "green", "blue", "white"]
    fair = [(f"a {a} and a {b} thing", [f"a {b} and a {a} thing"]) for a in words for b in words if a != b]
    assert text_only_accuracy(fair, fair) == pytest.approx(0.5, abs=0.1)
    longer = [(caption, [f"{caption} too"]) for caption, _ in fair]
    assert text_only_accuracy(longer[::2], longer[1::2]) == 1.0
    same = [(caption, [caption] * 4) for caption, _ in fair]
    assert text_only_accuracy(same, same) == pytest.approx(0.2)
