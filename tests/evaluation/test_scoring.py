"""Margins on small cases made by hand, and against slow loops; a constant model must not score."""

import pytest
import torch
import torch.nn.functional as F

from degla.evaluation.scoring import choice_margins, class_margins, correct_and_tied, prompt_classifier, retrieval_ranks
from tests.helpers.text_only import text_only_accuracy


def unit(*rows):
    return F.normalize(torch.tensor(rows, dtype=torch.float32), dim=-1)


def test_choice_by_hand():
    images = unit([1, 0], [1, 0], [1, 0], [0, 1])
    captions = torch.stack(
        [
            unit([1, 0], [0, 1], [0, 1]),
            unit([1, 1], [0, 1], [1, 0]),
            unit([1, 1], [1, 1], [0, 1]),
            unit([1, 1], [1, 0], [1, 0]),
        ]
    )
    margins, rivals = choice_margins(images, captions)
    assert margins.tolist() == pytest.approx([1, 0.5**0.5 - 1, 0, 0.5**0.5], abs=1e-6)
    assert rivals.tolist()[1:3] == [2, 1]
    rights, ties = correct_and_tied(margins)
    assert rights.tolist() == [True, False, False, True] and ties.tolist() == [False, False, True, False]
    assert correct_and_tied(margins, ties_are_correct=True)[0].tolist() == [True, False, True, True]


def test_a_constant_encoder_scores_nothing():
    same = unit([1, 2, 3]).expand(7, 3)
    assert not correct_and_tied(choice_margins(same, same[:, None].expand(7, 3, 3))[0])[0].any()
    assert not correct_and_tied(class_margins(same, torch.arange(7), same)[0])[0].any()
    ranks, _ = retrieval_ranks(same, same, torch.arange(7), torch.arange(7))
    assert ranks.tolist() == [6] * 7  # last, not first


def test_a_difference_by_rounding_is_a_tie():
    image = F.normalize(torch.rand(50, 64), dim=-1)
    text = F.normalize(torch.rand(50, 64), dim=-1)
    margins, _ = choice_margins(image, torch.stack([text, text + 1e-8 * torch.randn(50, 64)], 1))
    rights, ties = correct_and_tied(margins)
    assert not rights.any() and ties.all()


def test_classes_by_the_mean_of_their_prompts():
    prompts = torch.stack([unit([1, 0, 0], [1, 1, 0]), unit([0, 0, 1], [0, 1, 1])])
    classifier = prompt_classifier(prompts)
    torch.testing.assert_close(classifier, F.normalize(prompts.mean(1), dim=-1))
    images = unit([1, 0.2, 0], [0, 0.1, 1], [0, 1, 0.9], [1, 0, 1.5])
    labels = torch.tensor([0, 1, 0, 1])
    margins, rivals = class_margins(images, labels, classifier)
    expected = [int((classifier @ image).argmax() == label) for image, label in zip(images, labels, strict=True)]
    assert expected == [1, 1, 0, 1] == correct_and_tied(margins)[0].int().tolist()
    assert rivals.tolist() == [1, 0, 1, 0]


def test_retrieval_against_a_slow_loop():
    generator = torch.Generator().manual_seed(0)
    queries = F.normalize(torch.randn(30, 4, generator=generator), dim=-1)
    gallery = F.normalize(torch.randn(50, 4, generator=generator), dim=-1)
    owners, targets = torch.arange(30) % 10, torch.randint(0, 10, (50,), generator=generator)
    ranks, margins = retrieval_ranks(queries, gallery, owners, targets)
    for q in range(30):
        right = max(float(queries[q] @ gallery[g]) for g in range(50) if targets[g] == owners[q])
        wrong = [float(queries[q] @ gallery[g]) for g in range(50) if targets[g] != owners[q]]
        assert ranks[q] == sum(score > right for score in wrong)
        assert margins[q] == pytest.approx(right - max(wrong), abs=1e-5)


def test_a_model_that_gives_nan_finds_nothing():
    nan = torch.full((4, 3), float("nan"))
    one = torch.eye(4, 3).clone()
    one[1] = float("nan")
    ids = torch.arange(4)
    for queries, gallery in ((nan, nan), (torch.eye(4, 3), nan)):
        ranks, _ = retrieval_ranks(queries, gallery, ids, ids)
        assert (ranks == 3).all()
    ranks, _ = retrieval_ranks(torch.eye(4, 3)[:1], one, torch.tensor([0]), torch.tensor([0, 0, 2, 3]))
    assert ranks.tolist() == [2]
    assert not correct_and_tied(choice_margins(nan, nan[:, None].expand(4, 2, 3))[0])[0].any()
    assert not correct_and_tied(class_margins(nan, ids % 3, torch.eye(3))[0])[0].any()


def test_of_two_classes_of_one_name_the_first_wins_as_in_an_argmax():
    classifier = torch.eye(3)[[0, 1, 1, 2]]
    images, labels = torch.eye(3)[[1, 1, 0, 2]], torch.tensor([1, 2, 0, 3])
    plain, _ = correct_and_tied(class_margins(images, labels, classifier)[0])
    named, _ = correct_and_tied(class_margins(images, labels, classifier, torch.tensor([0, 1, 1, 2]))[0])
    assert plain.tolist() == [False, False, True, True] and named.tolist() == [True, False, True, True]


def test_text_only_finds_what_gives_the_answer_away_and_nothing_else():
    words = ["red", "green", "blue", "white"]
    fair = [(f"a {a} and a {b} thing", [f"a {b} and a {a} thing"]) for a in words for b in words if a != b]
    assert text_only_accuracy(fair, fair) == pytest.approx(0.5, abs=0.1)
    longer = [(caption, [f"{caption} too"]) for caption, _ in fair]
    assert text_only_accuracy(longer[::2], longer[1::2]) == 1.0
    same = [(caption, [caption] * 4) for caption, _ in fair]
    assert text_only_accuracy(same, same) == pytest.approx(0.2)
