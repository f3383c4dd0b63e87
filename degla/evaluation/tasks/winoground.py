"""Winoground (Thrush et al. 2022): two images and two captions of the same words."""

from collections.abc import Iterable, Sequence

import torch

from degla.errors import ConfigError
from degla.evaluation.hub import hub_rows
from degla.evaluation.items import ImageRef, Outcome
from degla.evaluation.scoring import Ties, judged
from degla.evaluation.task import Features, Survey, Task, stated, surveyed


class Winoground(Task):
    """Text score, image score and both (``group``).

    Args:
        name: what it is called in results.
        hub: the gated hub data set, or a folder in its layout; columns ``id, image_0, image_1, caption_0,
            caption_1``.
        subsets: among ``text``, ``image``, ``group``; None measures all.
        ties: the benchmark's own code loses ties as well.
    """

    official = {"text": 400, "image": 400, "group": 400}
    get_it = "accept the terms of huggingface.co/datasets/facebook/winoground and log in with its command line"

    def __init__(
        self,
        name: str = "winoground",
        hub: str = "facebook/winoground",
        subsets: Sequence[str] | None = None,
        ties: Ties = "lost",
    ):
        super().__init__(name, subsets, ties)
        self.hub = hub

    @property
    def rows(self) -> list[dict]:
        """All items, read once."""
        if not hasattr(self, "_rows"):
            self._rows = hub_rows(self, self.hub, ("image_0", "image_1", "caption_0", "caption_1"))
        return self._rows

    def list_images(self) -> Iterable[ImageRef]:
        """Two a row."""
        return dict.fromkeys(row[f"image_{i}"] for row in self.rows for i in (0, 1))

    def list_texts(self) -> Iterable[str]:
        """Two a row."""
        return dict.fromkeys(row[f"caption_{i}"] for row in self.rows for i in (0, 1))

    def outcomes(self, features: Features) -> list[Outcome]:
        """Strict in every comparison; chance is a quarter, a quarter and a sixth."""
        rows = [
            row for row in self.rows if features.is_readable(row["image_0"]) and features.is_readable(row["image_1"])
        ]
        if not rows:
            return []
        images, texts = (
            torch.stack([read([row[f"{what}_{i}"] for row in rows]) for i in (0, 1)], 1)
            for read, what in ((features.image_features, "image"), (features.text_features, "caption"))
        )
        scores = torch.einsum("nid,ncd->nci", images, texts)  # caption, image
        text = torch.minimum(scores[:, 0, 0] - scores[:, 1, 0], scores[:, 1, 1] - scores[:, 0, 1])
        image = torch.minimum(scores[:, 0, 0] - scores[:, 0, 1], scores[:, 1, 1] - scores[:, 1, 0])
        found = []
        for subset, margins, chance in (
            ("text", text, 1 / 4),
            ("image", image, 1 / 4),
            ("group", torch.minimum(text, image), 1 / 6),
        ):
            rights, ties = judged(margins)
            columns = zip(rows, rights.tolist(), ties.tolist(), margins.tolist(), strict=True)
            found += [
                Outcome(
                    subset,
                    str(stated(row, "id", i)),
                    right,
                    tie,
                    margin,
                    chance,
                    row["image_0"].name,
                    row["caption_0"],
                    row["caption_1"],
                )
                for i, (row, right, tie, margin) in enumerate(columns)
                if subset in self.subsets
            ]
        return found

    def survey(self) -> list[Survey]:
        """What is here and what is missing."""
        try:
            return [surveyed("all", len(self.rows), 400, self.list_images(), self.get_it)]
        except ConfigError as error:
            return [Survey("all", 0, 400, 0, 0, str(error), self.get_it)]
