"""A batch encoded to the ``Features`` that an objective reads.

Shapes: B samples of a batch on one rank, K negatives a sample, S slots of a further text, D embedding size.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from degla.data.batch import Batch, Chunk
from degla.losses import Features
from degla.models import ClipModel, PackedTexts, Teacher
from degla.models.encoding import Encoding

_MASKS = {"units": "unit_mask", "paraphrases": "paraphrase_mask", "second_captions": "second_caption_mask"}
_ONE_PER_SAMPLE = ("paraphrases", "second_captions")  # further texts with S = 1, whose axis the objective does not see


def encode_batch(model: ClipModel | Teacher, batch: Batch) -> Features:
    """Encode a batch: one image forward, and one text forward for captions, negatives and further texts together.

    A batch of several chunks is encoded chunk by chunk. The student's chunks are encoded again in the backward pass,
    so that the activations of only one chunk are in memory; the gradient is that of the whole batch.

    Args:
        model: student (with gradient) or teacher (without).
        batch: images ``(B, 3, H, W)``, captions ``(B, L)`` and negatives ``(B, K, L)`` on the model's device.

    Returns:
        Features ``(B, D)``, ``(B, D)`` and ``(B, K, D)``, float32, unit norm, and those of whatever else the batch
        and the model's encoding hold.
    """
    parts = []
    for part, texts in encoding_chunks(batch):
        images = batch.images[part]
        if batch.negative_images is not None:
            images = torch.cat([images, batch.negative_images[part]])
        if len(batch.chunks) > 1 and torch.is_grad_enabled() and isinstance(model, ClipModel):
            encoding = checkpoint(model, images, texts, use_reentrant=False)
        else:
            encoding = model(images, texts)
        parts.append(_by_sample(encoding, batch, part.stop - part.start))
    fields = {
        name: torch.cat([part[name] for part in parts]) if len(parts) > 1 else parts[0][name] for name in parts[0]
    }
    for name, mask_name in _MASKS.items():
        if name in batch.extra_texts:
            mask = batch.extra_texts[name].mask
            fields[mask_name] = mask[:, 0] if name in _ONE_PER_SAMPLE else mask
    return Features(
        **fields,
        negative_mask=batch.negative_mask,
        negative_image_mask=batch.negative_image_mask,
        image_ids=batch.image_ids,
        text_ids=batch.text_ids,
        logit_scale=encoding.logit_scale,
        logit_bias=encoding.logit_bias,
    )


def _by_sample(encoding: Encoding, batch: Batch, samples: int) -> dict[str, Tensor]:
    """Divide the features of one chunk among the fields of ``Features``, one row per sample."""
    slots = batch.negatives.shape[1]
    sizes = [1, slots, *(texts.mask.shape[1] for texts in batch.extra_texts.values())]
    texts = torch.split(encoding.text, [samples * size for size in sizes])
    dim = encoding.text.shape[1]
    fields = {
        "image": encoding.image[:samples],
        "text": texts[0],
        "negatives": texts[1].reshape(samples, slots, dim),
    }
    for name, part, size in zip(batch.extra_texts, texts[2:], sizes[2:], strict=True):
        fields[name] = part if name in _ONE_PER_SAMPLE else part.reshape(samples, size, dim)
    if batch.negative_images is not None:
        fields["negative_images"] = encoding.image[samples:]
    if encoding.patches is not None and encoding.tokens is not None and encoding.token_mask is not None:
        fields |= _token_fields(encoding.patches[:samples], encoding.tokens, encoding.token_mask, batch, samples)
    return fields


def _token_fields(patches: Tensor, tokens: Tensor, mask: Tensor, batch: Batch, samples: int) -> dict[str, Tensor]:
    # Chunks are as long as their own longest text; the batch's length makes them equal.
    missing = batch.captions.shape[1] - tokens.shape[1]
    tokens, mask = F.pad(tokens, (0, 0, 0, missing)), F.pad(mask, (0, missing))
    slots = batch.negatives.shape[1]
    negatives = slice(samples, samples * (1 + slots))
    return {
        "patches": patches,
        "tokens": tokens[:samples],
        "token_mask": mask[:samples],
        "negative_tokens": tokens[negatives].reshape(samples, slots, *tokens.shape[1:]),
        "negative_token_mask": mask[negatives].reshape(samples, slots, -1),
    }


def without_negatives(batch: Batch) -> Batch:
    """Return the batch with K = 0."""
    chunks = [chunk._replace(packed=None) for chunk in batch.chunks]  # packed texts include the negatives
    negatives, mask = batch.negatives[:, :0], batch.negative_mask[:, :0]
    return batch._replace(negatives=negatives, negative_mask=mask, chunks=chunks)


def encoding_chunks(batch: Batch) -> Iterator[tuple[slice, Tensor | PackedTexts]]:
    """Yield the samples that are encoded together, and their texts.

    The texts are ``(M, L)`` or packed: captions, then negatives, then further texts.
    """
    for chunk in batch.chunks or [Chunk(0, len(batch.images), None)]:
        part = slice(chunk.start, chunk.stop)
        further = [texts.tokens[part].flatten(0, 1) for texts in batch.extra_texts.values()]
        yield part, chunk.packed or torch.cat([batch.captions[part], batch.negatives[part].flatten(0, 1), *further])
