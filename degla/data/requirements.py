"""Refuse data without any of what an objective reads, before a model is loaded."""

import itertools
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import numpy as np

from degla.data.image_rows import RowsOfImages, table_image_ids
from degla.data.schema import Sample
from degla.data.sources.table import SampleStream, SampleTable
from degla.errors import DataError

_MAX_CHECKED_ROWS = 4000  # rows of a table that are checked, evenly spaced; takes a tenth of a second
_ROWS_AT_A_TIME = 100
_MAX_CHECKED_STREAM = 200  # samples of a stream that are checked; their images are read, too


class _Requirement(NamedTuple):
    """What a need of an objective means for a sample."""

    is_met: Callable[[Sample], bool]
    name: str  # completes "none of the samples has"
    remedy: str


_REQUIREMENTS = {
    "units": _Requirement(
        lambda sample: bool(sample.units),
        "units",
        "write a column units of {text, foil} objects with degla-negatives kinds=[unit_foil]",
    ),
    "paraphrases": _Requirement(
        lambda sample: bool(sample.paraphrases),
        "a paraphrase",
        "write a column paraphrases of texts with degla-negatives kinds=[paraphrase] negatives=llm",
    ),
    "second_captions": _Requirement(
        lambda sample: len(sample.captions) > 1,
        "a second caption",
        "add a column captions of texts, or a row for each caption of an image",
    ),
    "negative_images": _Requirement(
        lambda sample: bool(sample.negative_images),
        "a negative image",
        "add a column negative_images of paths or images",
    ),
}


def refuse_missing_columns(source: SampleTable | SampleStream, needs: Collection[str]) -> None:
    """Refuse data in which no sample has what an objective reads: units, paraphrases, second captions, negative images.

    A large table is checked at evenly spaced rows, a stream at its beginning. Negatives have a check of their own.

    Args:
        source: data of the run.
        needs: of the objective.

    Raises:
        DataError: no sample that was checked has one of them. The message names the column and how to make it.
    """
    unmet = [need for need in _REQUIREMENTS if need in needs]
    num_checked = 0
    for sample in _checked_samples(source) if unmet else ():
        num_checked += 1
        unmet = [need for need in unmet if not _REQUIREMENTS[need].is_met(sample)]
        if not unmet:
            return
    if "second_captions" in unmet and isinstance(source, SampleTable) and _has_images_of_several_rows(source):
        unmet.remove("second_captions")
    if unmet and num_checked:  # empty data has its own message
        requirement = _REQUIREMENTS[unmet[0]]
        key = "further_captions" if unmet[0] == "second_captions" else unmet[0]
        raise DataError(
            f"none of the {num_checked} samples that were checked has {requirement.name}, which this objective reads: "
            f"{requirement.remedy} (docs/data.md; under data=huggingface set data.{key} to the column), or choose "
            "another objective"
        )


def _checked_samples(source: SampleTable | SampleStream) -> Iterator[Sample]:
    """Yield samples until the caller has seen enough: without their images, but with negative images."""
    if isinstance(source, SampleTable):
        rows = np.unique(np.linspace(0, max(len(source), 1) - 1, _MAX_CHECKED_ROWS).astype(int))[: len(source)].tolist()
        unread = set(source.image_columns) - {source.optional_columns.get("negative_images")}
        records = source.dataset.remove_columns(sorted(unread))
        for start in range(0, len(rows), _ROWS_AT_A_TIME):
            part = rows[start : start + _ROWS_AT_A_TIME]
            yield from map(source.to_sample, records.__getitems__(part), part)
    else:
        unshuffled = SampleStream(source.dataset, source.to_sample, shuffle_buffer=1)
        yield from itertools.islice(unshuffled.samples(seed=0, epoch=0), _MAX_CHECKED_STREAM)


def _has_images_of_several_rows(table: SampleTable) -> bool:
    return RowsOfImages(table_image_ids(table), np.arange(len(table))).has_several()
