"""Rows to a ``Batch``: checks, decoding, choice of negatives, one call of the tokenizer."""

import random
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from degla.data.schema import Batch, Chunk, Negative, Problem, Sample, image_key
from degla.data.select import SELECTIONS, Slots
from degla.data.text_features import TextFeatures
from degla.data.transforms import BadImage, decode


class Draw(NamedTuple):
    """A row to be read, and what seeds everything random about it: crop and choice of negatives."""

    index: int
    seed: str

    def rng(self) -> random.Random:
        """A generator that gives the same numbers whichever process reads the row."""
        return random.Random(self.seed)


class Collate:
    """Makes a ``Batch`` of rows; rows that cannot be used are left out and reported.

    Args:
        transform: ``(image (3, H, W) uint8, rng) -> (3, H', W') uint8``.
        tokenizer: of the model, a ``degla.models.CaptionTokenizer``.
        num_negatives: K, slots of negatives a row.
        negatives: ``first``, ``random`` or ``one_per_type``.
        chunk_size: rows encoded together; None is the whole batch.
        teacher_texts: the teacher's features of texts met before, by number.

    Raises:
        ValueError: unknown ``negatives``.
    """

    def __init__(
        self,
        transform: Callable,
        tokenizer: Callable,
        num_negatives: int,
        negatives: str,
        chunk_size: int | None = None,
        teacher_texts: TextFeatures | None = None,
    ):
        if negatives not in SELECTIONS:
            raise ValueError(f"loader.negatives={negatives} is none of {', '.join(SELECTIONS)}")
        self.transform = transform
        self.tokenizer = tokenizer
        self.num_negatives = num_negatives
        self.chunk_size = chunk_size
        self.teacher_texts = teacher_texts
        self.select = SELECTIONS[negatives]
        self._no_text = tokenizer.ids([""])[0] if tokenizer.causal else []

    def __call__(self, rows: Iterable[tuple[Sample, Draw]]) -> Batch:
        """Read the rows; the batch holds those that could be read."""
        images: list[Tensor] = []
        kept: list[Sample] = []
        slots: list[Slots] = []
        problems: list[Problem] = []
        for row, draw in rows:
            rng = draw.rng()
            try:
                image = self._image(row, rng)
            except BadImage as error:
                problems.append(Problem(row.id, str(error), skipped=True))
                continue
            problems += self._notes(row)
            images.append(image)
            kept.append(row._replace(image_bytes=None, image_path=image_key(row)))
            slots.append(self.select(_usable(row), self.num_negatives, rng))
        return self._batch(images, kept, slots, problems)

    def _image(self, row: Sample, rng: random.Random) -> Tensor:
        if row.problem:
            raise BadImage(row.problem)
        if not row.caption.strip():
            raise BadImage("empty caption")
        return self.transform(decode(row.image_bytes, row.image_path), rng)

    def _notes(self, row: Sample) -> list[Problem]:
        """What is odd about a row that is used all the same."""
        notes = []
        if self.tokenizer.is_cut(row.caption):
            notes.append(f"caption is longer than {self.tokenizer.context_length} tokens and was cut")
        if self.num_negatives and not row.negatives:
            notes.append("no negatives: trains the global loss only")
        dropped = len(row.negatives) - len(_usable(row))
        if self.num_negatives and dropped:
            notes.append(f"dropped {dropped} negative(s) that are empty or equal to the caption")
        return [Problem(row.id, note, skipped=False) for note in notes]

    def _batch(self, images: list[Tensor], rows: list[Sample], slots: list[Slots], problems: list[Problem]) -> Batch:
        if not rows:
            empty = torch.empty(0)
            return Batch(empty, empty, empty, empty, [], [], problems)
        tokens = self._tokens(rows, slots)
        captions = tokens[: len(rows)]
        negatives = tokens[len(rows) :].reshape(len(rows), self.num_negatives, tokens.shape[1])
        numbers = None if any(row.tokens is None for row in rows) else _text_numbers(rows, slots)
        known = self.teacher_texts is not None and numbers is not None
        return Batch(
            images=torch.stack(images),
            captions=captions,
            negatives=negatives,
            negative_mask=torch.tensor([[n is not None for n in row] for row in slots], dtype=torch.bool).reshape(
                len(rows), self.num_negatives
            ),
            samples=[row._replace(tokens=None) for row in rows],
            slots=slots,
            problems=problems,
            chunks=self._chunks(captions, negatives),
            text_numbers=numbers,
            teacher_texts=self.teacher_texts.read(numbers) if known else None,
        )

    def _tokens(self, rows: list[Sample], slots: list[Slots]) -> Tensor:
        """``(B + B * K, L)``: captions, then the negatives of each."""
        if any(row.tokens is None for row in rows):
            texts = [negative.text if negative else "" for row in slots for negative in row]
            return self.tokenizer([row.caption for row in rows] + texts)
        ids = [row.tokens.ids[0] for row in rows]
        for row, chosen in zip(rows, slots, strict=True):
            ids += [row.tokens.ids[1 + row.negatives.index(n)] if n else self._no_text for n in chosen]
        return self.tokenizer.pad(ids)

    def _chunks(self, captions: Tensor, negatives: Tensor) -> list[Chunk]:
        size = self.chunk_size or len(captions)
        spans = [(start, min(start + size, len(captions))) for start in range(0, len(captions), size)]
        return [
            Chunk(start, stop, self.tokenizer.pack(torch.cat([captions[start:stop], *negatives[start:stop]])))
            for start, stop in spans
        ]


def _text_numbers(rows: list[Sample], slots: list[Slots]) -> np.ndarray:
    """``(B, 1 + K)``: the caption's, then the chosen negatives' numbers in the token table."""
    return np.array(
        [
            [row.tokens.first_text] + [row.tokens.first_text + 1 + row.negatives.index(n) if n else -1 for n in chosen]
            for row, chosen in zip(rows, slots, strict=True)
        ]
    )


def _usable(row: Sample) -> list[Negative]:
    """Negatives that say something else than the caption."""
    caption = _normal(row.caption)
    return [negative for negative in row.negatives if _normal(negative.text) not in ("", caption)]


def _normal(text: str) -> str:
    return " ".join(text.lower().split())
