"""A batch with everything that a term can need, encoded whole and in chunks."""

import pytest
import torch
from torch.testing import assert_close

from degla.data.batch import Batch, TextSlots
from degla.data.batch_texts import BatchTexts
from degla.losses import Features
from degla.models import load_clip
from degla.training.encoding import encode_batch

SLOTS = {"units": 2, "foils": 2, "paraphrases": 1, "second_captions": 1}
WORDS = ["a", "dog", "cat", "horse", "red", "blue", "small", "large", "chases", "eats", "under"]


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    model = load_clip("degla-tiny").double().eval()
    model.read_tokens_()
    return model


def _batch(student, chunk_size):
    """Return 5 samples with 2 negatives, further texts and negative images, packed as the loader packs them."""
    generator = torch.Generator().manual_seed(1)
    texts = BatchTexts(student.tokenizer, 2, SLOTS)

    def tokens(slots):
        sentences = [
            " ".join(WORDS[i] for i in torch.randint(0, len(WORDS), (3 + n % 4,), generator=generator).tolist())
            for n in range(5 * slots)
        ]
        return student.tokenizer(sentences)

    parts = [tokens(slots) for slots in (1, 2, *SLOTS.values())]
    longest = max(part.shape[1] for part in parts)
    padded = [torch.nn.functional.pad(part, (0, longest - part.shape[1])) for part in parts]
    shaped = [part.reshape(5, -1, longest) for part in padded]
    mask = torch.rand(5, 2, generator=generator) < 0.7
    return Batch(
        images=torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=generator),
        captions=shaped[0][:, 0],
        negatives=shaped[1],
        negative_mask=mask,
        samples=[],
        slots=[],
        problems=[],
        chunks=texts.chunks(shaped, chunk_size),
        extra_texts={
            name: TextSlots(part, torch.ones(part.shape[:2], dtype=torch.bool))
            for name, part in zip(SLOTS, shaped[2:], strict=True)
        },
        negative_images=torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=generator),
        negative_image_mask=torch.tensor([True, False, True, True, False]),
        image_ids=torch.arange(5),
        text_ids=torch.arange(5),
    )


def _alone(student, tokens):
    return student.encode_text(tokens)


def test_each_field_is_the_feature_of_its_own_text_or_image(student):
    batch = _batch(student, None)
    features = encode_batch(student, batch)
    assert_close(features.text, _alone(student, batch.captions))
    assert_close(features.negatives[:, 1], _alone(student, batch.negatives[:, 1]))
    for name in ("units", "foils"):
        assert_close(getattr(features, name)[:, 1], _alone(student, batch.extra_texts[name].tokens[:, 1]))
    for name in ("paraphrases", "second_captions"):
        assert_close(getattr(features, name), _alone(student, batch.extra_texts[name].tokens[:, 0]))
    assert_close(features.negative_images, student.encode_image(batch.negative_images))
    assert features.patches.shape[:2] == (5, 64) and features.negative_tokens.shape[:2] == (5, 2)
    assert features.unit_mask.shape == (5, 2) and features.paraphrase_mask.shape == (5,)
    expected = student(batch.images, batch.negatives[:, 0])
    length = expected.tokens.shape[1]
    counted = features.negative_token_mask[:, 0, :length]
    assert torch.equal(counted, expected.token_mask)
    assert_close(features.negative_tokens[:, 0, :length][counted], expected.tokens[counted])


@pytest.mark.parametrize("chunk_size", [1, 2, 4])
def test_chunks_have_features_and_gradient_of_the_whole(student, chunk_size):
    def total(features: Features):
        parts = [getattr(features, name) for name in ("image", "text", "negatives", *SLOTS, "negative_images")]
        parts += [features.patches, features.tokens * features.token_mask[..., None]]
        parts += [features.negative_tokens * features.negative_token_mask[..., None]]
        return sum((part.sin() * (i + 1)).sum() for i, part in enumerate(parts))

    gradients = []
    for size in (None, chunk_size):
        student.zero_grad()
        total(encode_batch(student, _batch(student, size))).backward()
        gradients.append({name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5)
