"""Turn samples into a ``Batch``: checks, decoding, the choice of negatives, tokens.

Shapes: B samples, K negatives per sample, L tokens, H, W of an image file, H', W' of the model.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from degla.data.batch import Batch, Chunk
from degla.data.images import BadImage, ImageLimits, decode
from degla.data.schema import Negative, Problem, Sample, SampleTokens, image_key
from degla.data.select import SELECTIONS, Slots
from degla.data.text_features import TextFeatures
from degla.data.tokenizer import Tokenizer
from degla.errors import ConfigError


class Draw(NamedTuple):
    """A row to read, and the seed of everything random about it: the crop and the choice of negatives."""

    row: int
    seed: str

    def rng(self) -> random.Random:
        """Return a generator that gives the same numbers in every process."""
        return random.Random(self.seed)


class Collate:
    """Makes a ``Batch`` of samples; samples that cannot be used are left out and reported.

    Args:
        transform: maps ``(3, H, W)`` uint8 and a random generator to ``(3, H', W')`` uint8.
        tokenizer: of the model.
        num_negatives: K, negative slots per sample.
        negatives: how the slots are filled: ``first``, ``random`` or ``one_per_type``.
        chunk_size: samples encoded together; None is the whole batch.
        teacher_texts: cached features of the teacher, by text number.
        captions: what to do with a sample that has several captions: use the ``first`` or a ``random`` one, or make
            a sample of each (``all``).
        image_limits: bounds of an image's size; None uses the defaults.

    Raises:
        ConfigError: ``negatives`` or ``chunk_size`` has a value that is not allowed.
    """

    def __init__(
        self,
        transform: Callable[[Tensor, random.Random], Tensor],
        tokenizer: Tokenizer,
        num_negatives: int,
        negatives: str,
        chunk_size: int | None = None,
        teacher_texts: TextFeatures | None = None,
        captions: Literal["first", "random", "all"] = "first",
        image_limits: ImageLimits | None = None,
    ):
        if negatives not in SELECTIONS:
            raise ConfigError(f"loader.negatives={negatives} must be one of {', '.join(SELECTIONS)}")
        if chunk_size is not None and chunk_size < 1:
            raise ConfigError(f"loader.chunk_size={chunk_size} must be 1 or more, or null for the whole batch")
        self.transform = transform
        self.tokenizer = tokenizer
        self.num_negatives = num_negatives
        self.chunk_size = chunk_size
        self.teacher_texts = teacher_texts
        self.captions = captions
        self.image_limits = image_limits or ImageLimits()
        self.select = SELECTIONS[negatives]
        self._empty_text_ids = tokenizer.ids([""])[0] if tokenizer.causal else []

    def __call__(self, samples: Iterable[tuple[Sample, Draw]]) -> Batch:
        """Decode and tokenize samples.

        Returns:
            A batch of those that can be used. It is empty if there are none.
        """
        images: list[Tensor] = []
        used: list[Sample] = []
        slots: list[Slots] = []
        problems: list[Problem] = []
        for sample, draw in samples:
            rng = draw.rng()
            try:
                image = self._image(sample, rng)
            except BadImage as error:
                problems.append(Problem(sample.id, str(error), skipped=True))
                continue
            stored = sample._replace(image_bytes=None, image_path=image_key(sample))
            for caption in self._captions(sample, draw):
                captioned = stored._replace(caption=caption)
                problems += self._notes(captioned)
                images.append(image)
                used.append(captioned)
                slots.append(self.select(_usable_negatives(captioned), self.num_negatives, rng))
        return self._batch(images, used, slots, problems)

    def _image(self, sample: Sample, rng: random.Random) -> Tensor:
        if sample.problem:
            raise BadImage(sample.problem)
        if not sample.caption.strip():
            raise BadImage("empty caption")
        return self.transform(decode(sample.image_bytes, sample.image_path, self.image_limits), rng)

    def _captions(self, sample: Sample, draw: Draw) -> Sequence[str]:
        if not sample.captions or self.captions == "first":
            return (sample.caption,)
        if self.captions == "all":
            return sample.captions
        # A separate generator, so that crops and negatives do not depend on how many captions there are.
        return (random.Random(f"{draw.seed}-caption").choice(sample.captions),)

    def _notes(self, sample: Sample) -> list[Problem]:
        """Return the problems of a sample that is used nevertheless."""
        notes = []
        if self.tokenizer.is_truncated(sample.caption):
            notes.append(f"caption is longer than {self.tokenizer.context_length} tokens and was truncated")
        if self.num_negatives and not sample.negatives:
            notes.append("no negatives: trains the global loss only")
        dropped = len(sample.negatives) - len(_usable_negatives(sample))
        if self.num_negatives and dropped:
            notes.append(f"dropped {dropped} negative(s) that are empty or equal to the caption")
        return [Problem(sample.id, note, skipped=False) for note in notes]

    def _batch(self, images: list[Tensor], samples: list[Sample], slots: list[Slots], problems: list[Problem]) -> Batch:
        if not samples:
            empty = torch.empty(0)
            return Batch(empty, empty, empty, empty, [], [], problems)
        tables = [sample.tokens for sample in samples]
        tokens = None if None in tables else cast(list[SampleTokens], tables)  # all of them come from one table
        token_ids = self._tokenize(samples, slots) if tokens is None else self._read_tokens(samples, slots, tokens)
        captions = token_ids[: len(samples)]
        negatives = token_ids[len(samples) :].reshape(len(samples), self.num_negatives, token_ids.shape[1])
        numbers = None if tokens is None else _text_numbers(samples, slots, tokens)
        mask = torch.tensor([[n is not None for n in row] for row in slots], dtype=torch.bool)
        return Batch(
            images=torch.stack(images),
            captions=captions,
            negatives=negatives,
            negative_mask=mask.reshape(len(samples), self.num_negatives),
            samples=[sample._replace(tokens=None) for sample in samples],
            slots=slots,
            problems=problems,
            chunks=self._chunks(captions, negatives),
            text_numbers=numbers,
            teacher_texts=None if self.teacher_texts is None or numbers is None else self.teacher_texts.read(numbers),
        )

    def _tokenize(self, samples: list[Sample], slots: list[Slots]) -> Tensor:
        """Return ``(B + B * K, L)``: the captions, then the negatives of each sample."""
        texts = [negative.text if negative else "" for row in slots for negative in row]
        return self.tokenizer([sample.caption for sample in samples] + texts)

    def _read_tokens(self, samples: list[Sample], slots: list[Slots], tokens: list[SampleTokens]) -> Tensor:
        """Return the same as ``_tokenize`` from token ids of a ``TokenTable``."""
        ids = [row.ids[_caption_index(sample)] for sample, row in zip(samples, tokens, strict=True)]
        for sample, row, chosen in zip(samples, tokens, slots, strict=True):
            ids += [row.ids[_negative_index(sample, n)] if n else self._empty_text_ids for n in chosen]
        return self.tokenizer.pad(ids)

    def _chunks(self, captions: Tensor, negatives: Tensor) -> list[Chunk]:
        size = self.chunk_size or len(captions)
        spans = [(start, min(start + size, len(captions))) for start in range(0, len(captions), size)]
        return [
            Chunk(start, stop, self.tokenizer.pack(torch.cat([captions[start:stop], *negatives[start:stop]])))
            for start, stop in spans
        ]


def _text_numbers(samples: list[Sample], slots: list[Slots], tokens: list[SampleTokens]) -> np.ndarray:
    """Return ``(B, 1 + K)``: the numbers of the caption and of the chosen negatives in the token table."""
    return np.array(
        [
            [row.first_text + _caption_index(sample)]
            + [row.first_text + _negative_index(sample, n) if n else -1 for n in chosen]
            for sample, row, chosen in zip(samples, tokens, slots, strict=True)
        ]
    )


def _caption_index(sample: Sample) -> int:
    """Return the position of the caption among the sample's texts, as ``texts_of`` orders them."""
    return sample.captions.index(sample.caption) if sample.captions else 0


def _negative_index(sample: Sample, negative: Negative) -> int:
    """Return the position of a negative among the sample's texts, as ``texts_of`` orders them."""
    return max(1, len(sample.captions)) + sample.negatives.index(negative)


def _usable_negatives(sample: Sample) -> list[Negative]:
    """Return the negatives that differ from the caption in more than case and spaces."""
    caption = _normalized(sample.caption)
    return [negative for negative in sample.negatives if _normalized(negative.text) not in ("", caption)]


def _normalized(text: str) -> str:
    return " ".join(text.lower().split())
