"""Validation metrics on matrices small enough to read, on one rank and on two."""

import numpy as np
import pytest
import torch

from degla.data.schema import Negative
from degla.training.validation import CaptionChoice, RetrievalRecall, recalls
from tests.helpers.ranks import run_on_ranks


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


def choice(image, text, negatives, slots, types=("swap_nouns", "replace_nouns", "k")):
    image, text, negatives = (torch.tensor(part, dtype=torch.float32) for part in (image, text, negatives))
    metric = CaptionChoice(types)
    metric.update(image_features=image, text_features=text, negative_features=negatives, slots=slots)
    return metric.compute()


def test_caption_choice_by_hand():
    slots = [[Negative("x", "swap_nouns"), Negative("y", "replace_nouns")]] * 2
    negatives = [[[0.8, 0], [0.1, 0]], [[0.6, 0], [0.2, 0]]]
    metrics = choice([[1, 0], [1, 0]], [[0.9, 0], [0.5, 0]], negatives, slots)
    assert metrics["caption_choice"] == 0.5
    assert metrics["caption_choice/swap_nouns"] == 0.5 and metrics["caption_choice/replace_nouns"] == 1.0


def test_a_collapsed_encoder_scores_zero():
    same = [[1.0, 0.0]] * 4
    slots = [[Negative(str(i), "swap_nouns") for i in range(3)]] * 4
    assert choice(same, same, [same[:3]] * 4, slots) == {"caption_choice": 0, "caption_choice/swap_nouns": 0}


def test_samples_without_negatives_do_not_count_in_the_choice():
    arguments = [[1, 0]] * 2, [[0.9, 0]] * 2, [[[0.8, 0]]] * 2
    assert choice(*arguments, [[Negative("x", "k")], [None]])["caption_choice"] == 1.0
    assert choice(*arguments, [[None], [None]]) == {}


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="'other' must be one of"):
        choice([[1, 0]], [[1, 0]], [[[0, 1]]], [[Negative("x", "other")]])


def test_an_image_with_several_captions_is_one_image():
    torch.manual_seed(0)
    image = torch.nn.functional.normalize(torch.randn(3, 8), dim=-1).repeat_interleave(5, 0)
    metric = RetrievalRecall()
    metric.update(image_features=image, text_features=image, image_keys=[str(i // 5) for i in range(15)])
    metrics = metric.compute()
    assert metrics["image_to_text_r@1"] == pytest.approx(1.0) and metrics["text_to_image_r@1"] == pytest.approx(1.0)


def validate(rank, world_size):
    """Return the metrics of 41 samples in batches of 5, whose shares differ between the ranks."""
    generator = torch.Generator().manual_seed(0)
    image, text, negatives = (torch.randn(*shape, 16, generator=generator) for shape in ((41,), (41,), (41, 3)))
    text = text + 0.4 * image
    types = ("swap_nouns", "replace_nouns", "reshuffle_order")
    slots = [[Negative("x", types[(i * k) % 3]) if (i + k) % 4 else None for k in range(3)] for i in range(41)]
    slots[30:] = [[Negative("x", "only the last rank has it")] + [None] * 2] * 11
    retrieval, caption_choice = RetrievalRecall(), CaptionChoice([*types, "only the last rank has it", "unused"])
    mine = np.array_split(np.arange(41), world_size)[rank]
    for part in np.array_split(mine, -(-len(mine) // 5)):
        i = torch.from_numpy(part)
        retrieval.update(
            image_features=image[i // 2 * 2], text_features=text[i], image_keys=[str(n // 2) for n in part]
        )
        caption_choice.update(
            image_features=image[i],
            text_features=text[i],
            negative_features=negatives[i],
            slots=[slots[n] for n in part],
        )
    return retrieval.compute() | caption_choice.compute()


def test_two_ranks_have_the_metrics_of_one():
    one = validate(0, 1)
    assert len(one) == 11 and "caption_choice/unused" not in one and 0 < one["image_to_text_r@5"] < 1
    assert run_on_ranks(validate, 2) == [one, one]
