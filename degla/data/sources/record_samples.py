"""Make samples of the records of a Hugging Face data set, whose columns have names that the user chose."""

from pathlib import Path
from typing import NamedTuple

from degla.data.extra_columns import parse_images, parse_texts, parse_units
from degla.data.schema import Negative, Sample, describe, list_in_text, parse_negatives
from degla.data.sources.columns import read_column
from degla.data.sources.needed import unneeded_columns
from degla.data.sources.records import Record


class Columns(NamedTuple):
    """The names of columns, by the config key that sets them; a dot selects a field."""

    image: str
    caption: str
    negatives: str | None
    further_captions: str | None = None
    units: str | None = None
    paraphrases: str | None = None
    negative_images: str | None = None

    def further(self) -> dict[str, str]:
        """Return the texts besides captions and negatives that are set."""
        names = {key: getattr(self, key) for key in ("further_captions", "units", "paraphrases")}
        return {key: name for key, name in names.items() if name is not None}

    def optional(self) -> dict[str, str]:
        """Return the whole columns that are read for one need of an objective alone, by need."""
        names = {
            "negatives": self.negatives,
            "second_captions": self.further_captions,
            "units": self.units,
            "paraphrases": self.paraphrases,
            "negative_images": self.negative_images,
        }
        columns = {need: name.split(".")[0] for need, name in names.items() if name is not None}
        removable = unneeded_columns(columns, needs=(), others=[_whole(self.image), _whole(self.caption)])
        return {need: column for need, column in columns.items() if column in removable}

    def of_images(self) -> set[str]:
        """Return the whole columns that hold nothing but images."""
        images = {_whole(name) for name in (self.image, self.negative_images) if name is not None}
        texts = [self.caption, self.negatives, *self.further().values()]
        return images - {_whole(name) for name in texts if name is not None}


def _whole(name: str) -> str:
    return name.split(".")[0]


class RecordToSample:
    """Makes samples of records.

    It is a class, so that DataLoader workers that are spawned can receive it.

    Args:
        path: the data set, for the ids of samples.
        columns: by their dotted names.
        image_root: folder to which paths of images are relative; None leaves them as they are.
    """

    def __init__(self, path: str, columns: Columns, image_root: str | None):
        self.path = path
        self.columns = columns
        self.image_root = Path(image_root).expanduser().resolve() if image_root is not None else None

    def __call__(self, record: Record, number: int) -> Sample:
        """Make a sample; a value that cannot be read becomes its problem.

        Args:
            record: column -> value.
            number: of the row.
        """
        sample = Sample(
            id=str(record.get("__key__") or f"{self.path}:{number}"),
            image_bytes=None,
            image_path=None,
            caption="",
            negatives=[],
        )
        image = read_column(record, self.columns.image)
        if not isinstance(image, dict):
            image = {"bytes": image} if isinstance(image, bytes) else {"path": image}
        image_path = image.get("path")
        if image_path is not None and not isinstance(image_path, str):
            return sample._replace(problem=f"image is {describe(image_path)}, not a path")
        if image_path and self.image_root is not None and image.get("bytes") is None:
            image_path = str(self.image_root / image_path)
        sample = sample._replace(image_bytes=image.get("bytes"), image_path=image_path)
        try:
            return self._with_texts(sample, record)
        except ValueError as error:
            return sample._replace(problem=str(error))

    def _with_texts(self, sample: Sample, record: Record) -> Sample:
        columns = self.columns
        captions = parse_captions(read_column(record, columns.caption))
        further = parse_texts(read_column(record, columns.further_captions), "further_captions")
        several = tuple(dict.fromkeys([*captions, *further]))
        return sample._replace(
            caption=captions[0] if captions else "",
            captions=several if captions and len(several) > 1 else (),
            negatives=parse_text_or_negatives(read_column(record, columns.negatives)),
            units=parse_units(read_column(record, columns.units)),
            paraphrases=parse_texts(read_column(record, columns.paraphrases), "paraphrases"),
            negative_images=parse_images(
                read_column(record, columns.negative_images), "negative_images", self.image_root
            ),
        )


def parse_captions(value: object) -> tuple[str, ...]:
    """Return the captions of an image: one text, a list of texts, or such a list as JSON or in Python's notation.

    Raises:
        ValueError: the value is anything else.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        value = list_in_text(value)
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple):
        raise ValueError(f"caption is {describe(value)}, not a text")
    if any(not isinstance(item, str | None) for item in value):
        raise ValueError("caption is a list of other things than texts")
    return tuple(dict.fromkeys(item for item in value if item and item.strip()))


def parse_text_or_negatives(value: object) -> list[Negative]:
    """Return the negatives of a column that may also hold a single text.

    Raises:
        ValueError: the value is neither a text nor what ``parse_negatives`` reads.
    """
    if isinstance(value, str) and value.strip():
        value = list_in_text(value)
        if isinstance(value, str) and not value.startswith(("[{", '["', "{")):  # damaged JSON is not a negative
            return [Negative(value)]
    return parse_negatives(value)
