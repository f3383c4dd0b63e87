"""Retrieval in both directions, by the id of the image, as CLIP reports it."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch

from degla.errors import ConfigError
from degla.evaluation.caption_files import Captioned, read_captioned
from degla.evaluation.items import ImageRef, Outcome
from degla.evaluation.scoring import TIE, Ties, retrieval_ranks
from degla.evaluation.task import Features, Survey, Task, mean, surveyed

_DIRECTIONS = ("image_to_text", "text_to_image")


class Retrieval(Task):
    """Recall at k: an image finds one of its captions, a caption its image, among the first k.

    Args:
        captions: BLIP's or Karpathy's JSON, or a CSV of ``image, caption``.
        images: folder of the images.
        num_images: that the published split has; None where there is none.
        split: of Karpathy's JSON.
        ks: the k.
        name: what it is called in results.
        subsets: such as ``image_to_text_r@1``; None measures all.
        ties: ``lost``: a wrong entry that scores as high is ranked before the right one.
    """

    get_it = "captions: Karpathy's split; images: COCO val2014 (cocodataset.org), Flickr30k, Flickr8k (by form)"

    def __init__(
        self,
        captions: str,
        images: str,
        num_images: int | None = None,
        split: str = "test",
        ks: Sequence[int] = (1, 5, 10),
        name: str = "retrieval",
        subsets: Sequence[str] | None = None,
        ties: Ties = "lost",
    ):
        self.official = {
            f"{direction}_r@{k}": num_images if direction == "image_to_text" else None
            for direction in _DIRECTIONS
            for k in ks
        }
        super().__init__(name, subsets, ties)
        self.captions = Path(captions)
        self.images = Path(images)
        self.num_images = num_images
        self.split = split
        self.ks = tuple(ks)

    @property
    def captioned(self) -> Captioned:
        """All images with their captions, read once."""
        if not hasattr(self, "_captioned"):
            self._captioned = read_captioned(self, self.captions, self.images, self.split)
        return self._captioned

    def list_images(self) -> Iterable[ImageRef]:
        """Every image once."""
        return [image for _, image, _ in self.captioned]

    def list_texts(self) -> Iterable[str]:
        """Every caption."""
        return dict.fromkeys(caption for _, _, captions in self.captioned for caption in captions)

    def outcomes(self, features: Features) -> list[Outcome]:
        """One a query and k; images that cannot be shown leave with their captions."""
        shown = [entry for entry in self.captioned if features.is_readable(entry[1])]
        if not shown:
            return []
        images = features.image_features([image for _, image, _ in shown])
        captions = [(text, i) for i, (_, _, texts) in enumerate(shown) for text in texts]
        texts = features.text_features([text for text, _ in captions])
        owners, ids = torch.tensor([i for _, i in captions]), torch.arange(len(shown))
        found = []
        for direction in _DIRECTIONS:
            if direction == "image_to_text":
                ranks, margins = retrieval_ranks(images, texts, ids, owners)
                queries = [(name, image.name, "", len(texts)) for name, image, texts in shown]
                size = len(captions)
            else:
                ranks, margins = retrieval_ranks(texts, images, owners, ids)
                queries = [
                    (f"{name} {n}", image.name, text, 1) for name, image, texts in shown for n, text in enumerate(texts)
                ]
                size = len(shown)
            for k in self.ks:
                subset = f"{direction}_r@{k}"
                if subset in self.subsets:
                    found += [
                        Outcome(
                            subset, item, rank < k, abs(margin) <= TIE, margin, _chance(k, rights, size), image, text
                        )
                        for (item, image, text, rights), rank, margin in zip(
                            queries, ranks.tolist(), margins.tolist(), strict=True
                        )
                    ]
        return found

    def means(self, accuracy: Mapping[str, Any]) -> dict[str, Any]:
        """Each direction over k, and ``average``."""
        directions = {
            direction: [accuracy[subset] for subset in self.subsets if subset.startswith(direction)]
            for direction in _DIRECTIONS
        }
        return {name: mean(values) for name, values in directions.items() if values} | super().means(accuracy)

    def protocol(self) -> dict[str, Any]:
        """How many images and captions there are to choose from."""
        texts = sum(len(captions) for _, _, captions in self.captioned)
        return super().protocol() | {"num_images": len(self.captioned), "num_captions": texts}

    def survey(self) -> list[Survey]:
        """What is here and what is missing."""
        try:
            return [surveyed("images", len(self.captioned), self.num_images, self.list_images(), self.get_it)]
        except ConfigError as error:
            return [Survey("images", 0, self.num_images, 0, 0, str(error), self.get_it)]


def _chance(k: int, rights: int, size: int) -> float:
    """Of meeting one of ``rights`` among the first k of ``size`` in random order."""
    return 1 - prod(max(0, size - rights - i) / max(1, size - i) for i in range(min(k, size)))
