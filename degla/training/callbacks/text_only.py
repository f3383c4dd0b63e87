"""The text-only baseline beside the validation metrics: what a model reaches that sees no image.

Shapes: P pairs of a caption and a negative.
"""

from collections import defaultdict
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback

from degla.data.collate import usable_negatives
from degla.data.datamodule import MAX_VALIDATION_NEGATIVES, DataModule
from degla.data.image_rows import table_image_ids
from degla.data.schema import Sample
from degla.data.sources import SampleTable
from degla.errors import ConfigError
from degla.report.text_only import TextOnlyRecord, TextOnlyScore, write_text_only
from degla.training.validation import RECALL_AT

_TIE = 1e-9  # scores this close to 0 are a guess


class _Pair(NamedTuple):
    caption: str
    negative: str
    number: int  # of the caption; pairs of one caption share it


class TextOnlyBaseline(Callback):
    """Writes ``text_only.json`` before the first step; the report shows it beside the validation metrics.

    For the choice of captions, a classifier of texts learns from the training samples to tell the captions from one
    type of negatives, and is tested on the validation samples. For retrieval, nothing can be learned without the query,
    so every query gets the same ranking, and k of n images are found.

    Args:
        run_dir: folder of the run.

    Raises:
        ConfigError: the run has no validation samples, or its data are a stream.
    """

    def __init__(self, run_dir: str):
        self.run_dir = Path(run_dir)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the baseline on the first rank."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]  # set in a connector
        assert isinstance(datamodule, DataModule)
        source = datamodule.source
        if not isinstance(source, SampleTable) or not len(datamodule.val_indices):
            raise ConfigError(
                "callbacks=text_only needs a table with validation samples: set loader.num_folds=5, or set "
                "callbacks=default"
            )
        if trainer.is_global_zero:
            val_table = datamodule.val_source or source
            train = source.texts(datamodule.train_indices.tolist())
            val = val_table.texts(datamodule.val_indices.tolist())
            num_images = len(np.unique(table_image_ids(val_table)[datamodule.val_indices]))
            scores = caption_choice(train, val) | retrieval(num_images)
            write_text_only(self.run_dir, TextOnlyRecord(scores=scores))


def caption_choice(train: Sequence[Sample], val: Sequence[Sample]) -> dict[str, TextOnlyScore]:
    """Return ``caption_choice`` and ``caption_choice/<type>`` of a classifier that sees no image.

    Where it cannot decide, or has too few pairs of a type to train on, it guesses.

    Args:
        train: samples to train on.
        val: samples to test on.
    """
    # Not at the top: it needs the extra `negatives`, which training in general does not, and takes a second to import.
    from degla.hard_negatives.text_only import text_only_scores

    train_pairs, val_pairs = _pairs_by_type(train), _pairs_by_type(val)
    points_of_captions: dict[int, list[float]] = defaultdict(list)
    by_type = {}
    for name, pairs in sorted(val_pairs.items()):
        scores = text_only_scores([pair[:2] for pair in train_pairs.get(name, [])], [pair[:2] for pair in pairs])
        points = np.full(len(pairs), 0.5) if scores is None else np.where(abs(scores) < _TIE, 0.5, scores > 0)
        for pair, point in zip(pairs, points.tolist(), strict=True):
            points_of_captions[pair.number].append(point)
        accuracy = None if scores is None else float(points.mean())
        by_type[f"caption_choice/{name}"] = TextOnlyScore(accuracy=accuracy, count=len(pairs))
    if all(score.accuracy is None for score in by_type.values()):
        return by_type
    all_correct = [prod(points) for points in points_of_captions.values()]
    overall = TextOnlyScore(accuracy=sum(all_correct) / len(all_correct), count=len(all_correct))
    return {"caption_choice": overall, **by_type}


def retrieval(num_images: int) -> dict[str, TextOnlyScore]:
    """Return the recalls of a ranking that is the same for every query: k of n images are found.

    Args:
        num_images: n, the images to choose from.
    """
    return {
        f"{direction}_r@{k}": TextOnlyScore(accuracy=min(1, k / num_images), count=num_images)
        for direction in ("image_to_text", "text_to_image")
        for k in RECALL_AT
    }


def _pairs_by_type(samples: Sequence[Sample]) -> dict[str, list[_Pair]]:
    captioned = [
        sample._replace(caption=caption)
        for sample in samples
        for caption in sample.captions or (sample.caption,)
        if not sample.problem and sample.caption.strip()
    ]
    pairs: dict[str, list[_Pair]] = defaultdict(list)
    for number, sample in enumerate(captioned):
        for negative in usable_negatives(sample)[:MAX_VALIDATION_NEGATIVES]:
            pairs[negative.type].append(_Pair(sample.caption, negative.text, number))
    return pairs
