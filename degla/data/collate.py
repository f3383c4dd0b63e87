"""Turn samples into a ``Batch``: checks, decoding, the choice of negatives, tokens.

Shapes: B samples, K negatives per sample, L tokens, H, W of an image file, H', W' of the model.
"""

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from degla.data.batch import Batch, TextSlots
from degla.data.batch_texts import BatchTexts, SampleTexts, text_numbers
from degla.data.extra_texts import ExtraTexts
from degla.data.fast_decode import decode_and_transform
from degla.data.identity import image_id, normalized, text_id
from degla.data.images import BadImage, ImageLimits
from degla.data.schema import Negative, Problem, Sample, image_key
from degla.data.select import IN_PLACE, SELECTIONS, Slots, first
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


class _Item(NamedTuple):
    """A sample that is used."""

    image: Tensor  # (3, H', W') uint8
    texts: SampleTexts
    negative_image: Tensor | None  # (3, H', W') uint8


class Collate:
    """Makes a ``Batch`` of samples; samples that cannot be used are left out and reported.

    Args:
        transform: maps ``(3, H, W)`` uint8 and a random generator to ``(3, H', W')`` uint8.
        tokenizer: of the model.
        num_negatives: K, negative slots per sample.
        negatives: how the slots are filled: ``first``, ``random``, ``one_per_type`` or ``in_place``.
        chunk_size: samples encoded together; None is the whole batch.
        teacher_texts: cached features of the teacher, by text number.
        captions: what to do with a sample that has several captions: use the ``first`` or a ``random`` one, or make
            a sample of each (``all``).
        image_limits: bounds of an image's size; None uses the defaults.
        needs: what batches carry besides images and captions: some of ``negatives``, ``unfiltered_negatives`` (entries
            as they stand, also one that equals the caption), ``units``, ``paraphrases``, ``second_captions``,
            ``negative_images`` and ``identity``. Other names are ignored. Without negatives K is 0.
        num_units: unit slots per sample.

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
        needs: Collection[str] = ("negatives",),
        num_units: int = 4,
    ):
        if negatives not in (*SELECTIONS, IN_PLACE):
            raise ConfigError(f"loader.negatives={negatives} must be one of {', '.join(SELECTIONS)}, {IN_PLACE}")
        if chunk_size is not None and chunk_size < 1:
            raise ConfigError(f"loader.chunk_size={chunk_size} must be 1 or more, or null for the whole batch")
        self.transform = transform
        self.tokenizer = tokenizer
        self.num_negatives = num_negatives if {"negatives", "unfiltered_negatives"} & set(needs) else 0
        self.chunk_size = chunk_size
        self.teacher_texts = teacher_texts
        self.captions = captions
        self.image_limits = image_limits or ImageLimits()
        self.needs = frozenset(needs)
        self.extra_texts = ExtraTexts(needs, num_units, draw_units=negatives not in ("first", IN_PLACE))
        self.in_place = negatives == IN_PLACE
        self.select = SELECTIONS.get(negatives, first)
        self.texts = BatchTexts(tokenizer, self.num_negatives, self.extra_texts.num_slots)

    @property
    def texts_per_sample(self) -> int:
        """Captions, negatives and further texts of one sample of a batch, empty slots included."""
        return 1 + self.num_negatives + sum(self.extra_texts.num_slots.values())

    @property
    def images_per_sample(self) -> int:
        """Images of one sample of a batch."""
        return 2 if "negative_images" in self.needs else 1

    def __call__(self, samples: Iterable[tuple[Sample, Draw]]) -> Batch:
        """Decode and tokenize samples.

        Returns:
            A batch of those that can be used. It is empty if there are none.
        """
        items: list[_Item] = []
        problems: list[Problem] = []
        for sample, draw in samples:
            rng = draw.rng()
            try:
                image = self._image(sample, rng)
            except BadImage as error:
                problems.append(Problem(sample.id, str(error), skipped=True))
                continue
            negative_image = self._negative_image(sample, draw, problems) if "negative_images" in self.needs else None
            stored = sample._replace(image_bytes=None, image_path=image_key(sample), negative_images=[])
            for caption in self._captions(sample, draw):
                captioned = stored._replace(caption=caption)
                problems += self._notes(captioned)
                extra_texts = self.extra_texts.choose(captioned, draw.seed)
                texts = SampleTexts(captioned, self._slots(captioned, rng), extra_texts)
                items.append(_Item(image, texts, negative_image))
        return self._batch(items, problems)

    def _image(self, sample: Sample, rng: random.Random) -> Tensor:
        if sample.problem:
            raise BadImage(sample.problem)
        if not sample.caption.strip():
            raise BadImage("empty caption")
        return decode_and_transform(sample.image_bytes, sample.image_path, self.image_limits, self.transform, rng)

    def _negative_image(self, sample: Sample, draw: Draw, problems: list[Problem]) -> Tensor | None:
        """Draw and decode one of the negative images; None, with a problem, if there is none that can be used."""
        if not sample.negative_images:
            reason = "no negative image: a term that reads one leaves the sample out"
            problems.append(Problem(sample.id, reason, skipped=False))
            return None
        # A separate generator, so that crops and negatives do not depend on negative images.
        rng = random.Random(f"{draw.seed}-negative-image")
        chosen = rng.choice(sample.negative_images)
        try:
            return decode_and_transform(chosen.image_bytes, chosen.image_path, self.image_limits, self.transform, rng)
        except BadImage as error:
            problems.append(Problem(sample.id, f"negative image: {error}", skipped=False))
            return None

    def _captions(self, sample: Sample, draw: Draw) -> Sequence[str]:
        if not sample.captions or self.captions == "first":
            return (sample.caption,)
        if self.captions == "all":
            return sample.captions
        # A separate generator, so that crops and negatives do not depend on how many captions there are.
        return (random.Random(f"{draw.seed}-caption").choice(sample.captions),)

    def _slots(self, sample: Sample, rng: random.Random) -> Slots:
        if "unfiltered_negatives" in self.needs:
            return self.select(sample.negatives, self.num_negatives, rng)
        if self.in_place:
            usable = set(usable_negatives(sample))
            entries = [negative if negative in usable else None for negative in sample.negatives]
            return first(entries, self.num_negatives, rng)
        return self.select(usable_negatives(sample), self.num_negatives, rng)

    def _notes(self, sample: Sample) -> list[Problem]:
        """Return the problems of a sample that is used nevertheless."""
        notes = []
        if self.tokenizer.is_truncated(sample.caption):
            notes.append(f"caption is longer than {self.tokenizer.context_length} tokens and was truncated")
        if self.num_negatives and not sample.negatives:
            notes.append("no negatives: trains the global loss only")
        dropped = self._num_dropped(sample)
        if self.num_negatives and dropped:
            notes.append(f"dropped {dropped} negative(s) that are empty or equal to the caption")
        return [Problem(sample.id, note, skipped=False) for note in notes + self.extra_texts.notes(sample)]

    def _num_dropped(self, sample: Sample) -> int:
        """Return the number of negatives that are not used; under ``in_place`` an empty one is a slot left empty."""
        if "unfiltered_negatives" in self.needs:
            return 0
        entries = [negative for negative in sample.negatives if negative.text or not self.in_place]
        return len(entries) - len(usable_negatives(sample))

    def _batch(self, items: list[_Item], problems: list[Problem]) -> Batch:
        if not items:
            empty = torch.empty(0)
            return Batch(empty, empty, empty, empty, [], [], problems)
        rows = [item.texts for item in items]
        samples, slots = [row.sample for row in rows], [row.slots for row in rows]
        texts = self.texts.token_ids(rows)
        numbers = text_numbers(rows)
        images = torch.stack([item.image for item in items])
        negative_images, negative_image_mask = self._negative_images(items, images)
        image_ids, text_ids = self._ids(samples)
        return Batch(
            images=images,
            captions=texts[0][:, 0],
            negatives=texts[1],
            negative_mask=_mask(slots),
            samples=[sample._replace(tokens=None, other_caption=None) for sample in samples],
            slots=slots,
            problems=problems,
            chunks=self.texts.chunks(texts, self.chunk_size),
            text_numbers=numbers,
            teacher_texts=None if self.teacher_texts is None or numbers is None else self.teacher_texts.read(numbers),
            extra_texts={
                name: TextSlots(ids, _mask([row.extra_texts[name] for row in rows]))
                for name, ids in zip(self.extra_texts.num_slots, texts[2:], strict=True)
            },
            negative_images=negative_images,
            negative_image_mask=negative_image_mask,
            image_ids=image_ids,
            text_ids=text_ids,
        )

    def _negative_images(self, items: list[_Item], images: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if "negative_images" not in self.needs:
            return None, None
        blank = torch.zeros_like(images[0])
        pixels = [blank if item.negative_image is None else item.negative_image for item in items]
        return torch.stack(pixels), torch.tensor([item.negative_image is not None for item in items])

    def _ids(self, samples: list[Sample]) -> tuple[Tensor | None, Tensor | None]:
        if "identity" not in self.needs:
            return None, None
        image_ids = [image_id(sample.image_path or sample.id) for sample in samples]
        return torch.tensor(image_ids), torch.tensor([text_id(sample.caption) for sample in samples])


def _mask(slots: Sequence[Sequence[object | None]]) -> Tensor:
    """Return ``(B, S)`` bool: where a slot is filled."""
    return torch.tensor([[entry is not None for entry in row] for row in slots], dtype=torch.bool)


def usable_negatives(sample: Sample) -> list[Negative]:
    """Return the negatives that differ from the caption in more than case and spaces."""
    unusable = ("", normalized(sample.caption))
    return [negative for negative in sample.negatives if normalized(negative.text) not in unusable]
