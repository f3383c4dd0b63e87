"""Retrieval in both directions, by the id of the image, as CLIP reports it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from degla.bounds import Bound, bounded, whole
from degla.evaluation.caption_files import CaptionedImage, read_caption_file
from degla.evaluation.items import ImageRef, Outcome
from degla.evaluation.scoring import TIE, Ties, retrieval_ranks
from degla.evaluation.task import FeatureSource, Task, mean

_DIRECTIONS = ("image_to_text", "text_to_image")


class _Query(NamedTuple):
    item: str
    image: str
    caption: str  # "" where the image is the query
    num_correct: int  # entries that would be correct


_KS = Bound(
    lambda value: isinstance(value, list | tuple) and len(value) > 0 and all(map(whole(1).allows, value)),
    "a list of whole numbers of 1 or more",
)


class Retrieval(Task):
    """Recall at k: an image finds one of its captions, and a caption its image, among the first k.

    Args:
        captions: BLIP's or Karpathy's JSON, or a CSV of ``image, caption``.
        images: folder of the images.
        num_images: number of images in the published split; None where there is none.
        split: which split of Karpathy's JSON.
        ks: the values of k.
        name: its name in results.
        subsets: such as ``image_to_text_r@1``; None measures all.
        ties: ``lost``: a wrong entry that scores as high is ranked before the correct one.
    """

    @bounded("benchmark")
    def __init__(
        self,
        captions: str,
        images: str,
        num_images: Annotated[int, whole(1)] | None = None,
        split: str = "test",
        ks: Annotated[Sequence[int], _KS] = (1, 5, 10),
        name: str = "retrieval",
        subsets: Sequence[str] | None = None,
        ties: Ties = "lost",
    ):
        super().__init__(
            name,
            subsets,
            ties,
            official_counts={
                f"{direction}_r@{k}": num_images if direction == "image_to_text" else None
                for direction in _DIRECTIONS
                for k in ks
            },
            download_hint=(
                "captions: Karpathy's split; images: COCO val2014 (cocodataset.org), Flickr30k, Flickr8k (by form)"
            ),
        )
        self.captions = Path(captions)
        self.images = Path(images)
        self.num_images = num_images
        self.split = split
        self.ks = tuple(ks)

    @cached_property
    def captioned(self) -> list[CaptionedImage]:
        """All images with their captions; they are read once."""
        return read_caption_file(self, self.captions, self.images, self.split)

    def list_images(self) -> Iterable[ImageRef]:
        """Return every image once."""
        return [entry.image for entry in self.captioned]

    def list_texts(self) -> Iterable[str]:
        """Return every caption."""
        return dict.fromkeys(caption for entry in self.captioned for caption in entry.captions)

    def outcomes(self, features: FeatureSource) -> list[Outcome]:
        """Answer every query for every k; images that cannot be decoded are left out with their captions."""
        entries = [entry for entry in self.captioned if features.is_readable(entry.image)]
        if not entries:
            return []
        images = features.image_features([entry.image for entry in entries])
        owners = torch.tensor([i for i, entry in enumerate(entries) for _ in entry.captions])
        texts = features.text_features([caption for entry in entries for caption in entry.captions])
        ids = torch.arange(len(entries))
        by_image = [_Query(entry.name, entry.image.name, "", len(entry.captions)) for entry in entries]
        by_text = [
            _Query(f"{entry.name} {n}", entry.image.name, caption, 1)
            for entry in entries
            for n, caption in enumerate(entry.captions)
        ]
        return [
            *self._direction("image_to_text", by_image, *retrieval_ranks(images, texts, ids, owners), len(texts)),
            *self._direction("text_to_image", by_text, *retrieval_ranks(texts, images, owners, ids), len(images)),
        ]

    def means(self, accuracy: Mapping[str, Any]) -> dict[str, Any]:
        """Return the mean of each direction over k, and ``average``."""
        directions = {
            direction: [accuracy[subset] for subset in self.subsets if subset.startswith(direction)]
            for direction in _DIRECTIONS
        }
        return {name: mean(values) for name, values in directions.items() if values} | super().means(accuracy)

    def protocol(self) -> dict[str, Any]:
        """Return the protocol, with the numbers of images and captions to choose from."""
        num_captions = sum(len(entry.captions) for entry in self.captioned)
        return super().protocol() | {"num_images": len(self.captioned), "num_captions": num_captions}

    def survey_parts(self) -> Mapping[str, int | None]:
        """Return the only part; all subsets share the images."""
        return {"images": self.num_images}

    def survey_part(self, part: str) -> tuple[int, Iterable[ImageRef]]:
        """Return the number of images, and the images."""
        return len(self.captioned), self.list_images()

    def _direction(
        self, direction: str, queries: Sequence[_Query], ranks: Tensor, margins: Tensor, size: int
    ) -> Iterator[Outcome]:
        for k in self.ks:
            subset = f"{direction}_r@{k}"
            if subset not in self.subsets:
                continue
            for query, rank, margin in zip(queries, ranks.tolist(), margins.tolist(), strict=True):
                yield Outcome(
                    subset=subset,
                    item=query.item,
                    correct=rank < k,
                    tie=abs(margin) <= TIE,
                    margin=margin,
                    chance=_chance(k, query.num_correct, size),
                    image=query.image,
                    caption=query.caption,
                )


def _chance(k: int, num_correct: int, size: int) -> float:
    """Return the probability that one of ``num_correct`` entries is among the first k of ``size`` in random order."""
    return 1 - prod(max(0, size - num_correct - i) / max(1, size - i) for i in range(min(k, size)))
