"""Validation metrics on matrices small enough to read."""

import pytest
import torch

from degla.data.schema import Negative
from degla.losses import Features
from degla.training.validation import EmbeddedBatch, embed_batch, recalls, validation_metrics


def test_recall_by_hand():
    """Rows of the matrix are images, columns captions; each image has two captions."""
    similarity = torch.tensor([[0.9, 0.1, 0.8, 0.2], [0.7, 0.6, 0.5, 0.4]])
    owner = torch.tensor([0, 0, 1, 1])
    metrics = recalls(similarity, owner)
    # Image 0's best caption is its own; image 1's is a caption of image 0.
    assert metrics["image_to_text_r@1"] == 0.5
    # Captions 0 and 3 find their image first; captions 1 and 2 do not.
    assert metrics["text_to_image_r@1"] == 0.5
    assert metrics["image_to_text_r@5"] == metrics["text_to_image_r@5"] == 1.0


def features(image, text, negatives):
    image, text, negatives = (torch.tensor(part, dtype=torch.float32) for part in (image, text, negatives))
    mask = torch.ones(negatives.shape[:2], dtype=torch.bool)
    return Features(image, text, negatives, mask, torch.tensor(10.0))


def test_caption_choice_by_hand():
    f = features([[1, 0], [1, 0]], [[0.9, 0], [0.5, 0]], [[[0.8, 0], [0.1, 0]], [[0.6, 0], [0.2, 0]]])
    slots = [[Negative("x", "swap_nouns"), Negative("y", "replace_nouns")]] * 2
    metrics = validation_metrics([embed_batch(f, ["a", "b"], slots)])
    assert metrics["caption_choice"] == 0.5
    assert metrics["caption_choice/swap_nouns"] == 0.5 and metrics["caption_choice/replace_nouns"] == 1.0


def test_a_collapsed_encoder_scores_zero():
    same = [[1.0, 0.0]] * 4
    f = features(same, same, [same[:3]] * 4)
    slots = [[Negative(str(i), "swap_nouns") for i in range(3)]] * 4
    metrics = validation_metrics([embed_batch(f, list("abcd"), slots)])
    assert metrics["caption_choice"] == 0 and metrics["caption_choice/swap_nouns"] == 0


def test_samples_without_negatives_do_not_count_in_the_choice():
    f = features([[1, 0]] * 2, [[0.9, 0]] * 2, [[[0.8, 0]]] * 2)
    batch = embed_batch(f, ["a", "b"], [[Negative("x", "k")], [None]])
    assert validation_metrics([batch])["caption_choice"] == 1.0
    empty = EmbeddedBatch(batch.image, batch.text, ["a", "b"], [[], []])
    assert "caption_choice" not in validation_metrics([empty])


def test_an_image_with_several_captions_is_one_image():
    torch.manual_seed(0)
    image = torch.nn.functional.normalize(torch.randn(3, 8), dim=-1).repeat_interleave(5, 0)
    batch = EmbeddedBatch(image, image, [str(i // 5) for i in range(15)], [[]] * 15)
    metrics = validation_metrics([batch])
    assert metrics["image_to_text_r@1"] == pytest.approx(1.0) and metrics["text_to_image_r@1"] == pytest.approx(1.0)
