"""Winoground (Thrush et al. 2022): two images and two captions of the same words."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import torch

from degla.evaluation.hub import hub_rows
from degla.evaluation.items import ImageRef, Outcome
from degla.evaluation.schemas import ForeignModel, ItemId, Text
from degla.evaluation.scoring import Ties, correct_and_tied
from degla.evaluation.task import FeatureSource, Task

_COUNT = 400
_CHANCE = {"text": 1 / 4, "image": 1 / 4, "group": 1 / 6}


class _Row(ForeignModel):
    image_0: ImageRef
    image_1: ImageRef
    caption_0: Text
    caption_1: Text
    id: ItemId = None


class _Item(NamedTuple):
    item: str
    images: tuple[ImageRef, ImageRef]
    captions: tuple[str, str]


class Winoground(Task):
    """Text score, image score and both together (``group``).

    Args:
        name: its name in results.
        hub: the gated hub data set, or a folder in its layout; columns ``id, image_0, image_1, caption_0,
            caption_1``.
        subsets: among ``text``, ``image``, ``group``; None measures all.
        ties: the benchmark's own code loses ties as well.
    """

    def __init__(
        self,
        name: str = "winoground",
        hub: str = "facebook/winoground",
        subsets: Sequence[str] | None = None,
        ties: Ties = "lost",
    ):
        super().__init__(
            name,
            subsets,
            ties,
            official_counts=dict.fromkeys(_CHANCE, _COUNT),
            download_hint=(
                "accept the terms of huggingface.co/datasets/facebook/winoground and log in with its command line"
            ),
        )
        self.hub = hub

    @cached_property
    def items(self) -> list[_Item]:
        """All items; they are read once."""
        rows = hub_rows(self, self.hub, _Row)
        return [
            _Item(
                item=str(i if row.id is None else row.id),
                images=(row.image_0, row.image_1),
                captions=(row.caption_0, row.caption_1),
            )
            for i, row in enumerate(rows)
        ]

    def list_images(self) -> Iterable[ImageRef]:
        """Return the two images of every item."""
        return dict.fromkeys(image for item in self.items for image in item.images)

    def list_texts(self) -> Iterable[str]:
        """Return the two captions of every item."""
        return dict.fromkeys(caption for item in self.items for caption in item.captions)

    def outcomes(self, features: FeatureSource) -> list[Outcome]:
        """Answer every item; a tie in any comparison counts as wrong (chance is 1/4, 1/4 and 1/6)."""
        items = [item for item in self.items if all(map(features.is_readable, item.images))]
        if not items:
            return []
        images = torch.stack([features.image_features([item.images[i] for item in items]) for i in (0, 1)], 1)
        texts = torch.stack([features.text_features([item.captions[i] for item in items]) for i in (0, 1)], 1)
        scores = torch.einsum("nid,ncd->nci", images, texts)  # caption, image
        text = torch.minimum(scores[:, 0, 0] - scores[:, 1, 0], scores[:, 1, 1] - scores[:, 0, 1])
        image = torch.minimum(scores[:, 0, 0] - scores[:, 0, 1], scores[:, 1, 1] - scores[:, 1, 0])
        outcomes = []
        for subset, margins in (("text", text), ("image", image), ("group", torch.minimum(text, image))):
            if subset not in self.subsets:
                continue
            correct, tied = correct_and_tied(margins)
            columns = zip(items, correct.tolist(), tied.tolist(), margins.tolist(), strict=True)
            outcomes += [
                Outcome(
                    subset=subset,
                    item=item.item,
                    correct=is_correct,
                    tie=is_tie,
                    margin=margin,
                    chance=_CHANCE[subset],
                    image=item.images[0].name,
                    caption=item.captions[0],
                    rival=item.captions[1],
                )
                for item, is_correct, is_tie, margin in columns
            ]
        return outcomes

    def survey_parts(self) -> Mapping[str, int | None]:
        """Return the only part; all subsets share the items."""
        return {"all": _COUNT}

    def survey_part(self, part: str) -> tuple[int, Iterable[ImageRef]]:
        """Return the number of items, and their images."""
        return len(self.items), self.list_images()
