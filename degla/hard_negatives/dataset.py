"""Write the resulting dataset: a folder that trains and that ``datasets.load_dataset`` reads."""

import random
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from degla.artifacts import atomic_write
from degla.data.schema import Negative, Unit
from degla.hard_negatives.companions import COLUMNS, PARAPHRASE, UNIT_FOIL
from degla.hard_negatives.text_only import TextOnlyAccuracy, measure_text_only, select_balanced

_ROWS_PER_GROUP = 5000  # of a Parquet file; memory holds one group
_NEGATIVES_TYPE = pa.list_(pa.struct([("text", pa.string()), ("type", pa.string())]))
_COMPANION_TYPES = {
    "units": pa.list_(pa.struct([("text", pa.string()), ("foil", pa.string())])),
    "paraphrases": pa.list_(pa.string()),
}
_REJECTED_SCHEMA = pa.schema([(name, pa.string()) for name in ("caption", "type", "text", "reason")])
_MAX_BASELINE_PAIRS = 20_000  # pairs of one kind that the text-only baseline sees
_NUM_SAMPLES = 5  # pairs of one kind that the data card shows

_Item = TypeVar("_Item")


class CheckedRow(NamedTuple):
    """A row of the result.

    ``caption`` is "" where the input row could not be used.
    """

    image: Any
    caption: str
    negatives: list[Negative]
    rejected: list[tuple[str, str, str]]  # kind, text, reason
    units: list[Unit] = []
    paraphrases: list[str] = []


class Summary(NamedTuple):
    """Counts and samples of a dataset, for the reports."""

    num_rows: int
    num_without: int  # rows without any negative, unit or paraphrase
    num_without_image: int
    accepted: Counter[str]  # kind -> number of negatives
    reasons: dict[str, Counter[str]]  # kind -> reason -> number of rejected texts, and of captions without a text
    samples: dict[str, list[tuple[str, str]]]  # kind -> pairs of caption and negative
    text_only: list[TextOnlyAccuracy]
    dropped: Counter[str]  # kind -> number of negatives that were dropped to balance the kind


def write_dataset(
    rows: Iterable[CheckedRow],
    folder: Path,
    image_type: pa.DataType,
    balance: bool = False,
    seed: int = 0,
    kinds: Collection[str] = (),
) -> Summary:
    """Write ``captions.parquet`` (image, caption, negatives) and ``log/rejected.parquet``.

    Where units or paraphrases are among the kinds, the first file has a column of them.

    Rows without a caption appear in the second file only. Each file replaces an earlier one when it is complete.

    Args:
        rows: iterated once. Memory holds one group of rows and the pairs for the text-only baseline, which are all
            pairs where ``balance`` is set.
        folder: the output folder.
        image_type: type of the column of images.
        balance: drop negatives until the text-only baseline cannot tell them from captions.
        seed: seed of the choice of what is dropped.
        kinds: the kinds that were written.
    """
    schema = _captions_schema(image_type, [column for kind, column in COLUMNS.items() if kind in kinds])
    tally = _Tally(None if balance else _MAX_BASELINE_PAIRS, random.Random(seed))
    dropped: Counter[str] = Counter()
    with atomic_write(folder / "captions.parquet") as captions_path:
        with atomic_write(folder / "log" / "rejected.parquet") as rejected_path:
            _write_rows(tally.count(rows), captions_path, rejected_path, schema)
        num_without = tally.num_without
        if balance:
            kept = {kind: select_balanced(pairs, seed) for kind, pairs in tally.pairs.items()}
            num_without = _drop_negatives(captions_path, kept)
            for kind, flags in kept.items():
                dropped[kind] = flags.count(False)
                tally.accepted[kind] -= dropped[kind]
                tally.pairs[kind] = [pair for pair, flag in zip(tally.pairs[kind], flags, strict=True) if flag]
    return Summary(
        num_rows=tally.num_rows,
        num_without=num_without,
        num_without_image=tally.num_without_image,
        accepted=tally.accepted,
        reasons=tally.reasons,
        samples={
            kind: _evenly_spaced(pairs, _NUM_SAMPLES) for kind, pairs in {**tally.pairs, **tally.companions}.items()
        },
        text_only=[
            measure_text_only(kind, _evenly_spaced(pairs, _MAX_BASELINE_PAIRS)) for kind, pairs in tally.pairs.items()
        ],
        dropped=dropped,
    )


class _Tally:
    """Counts rows while they pass, and keeps pairs for the text-only baseline.

    Args:
        max_pairs: pairs of a kind that are kept, each with the same probability; None keeps all.
        rng: source of the choice.
    """

    def __init__(self, max_pairs: int | None, rng: random.Random):
        self.max_pairs = max_pairs
        self.rng = rng
        self.num_rows = self.num_without = self.num_without_image = 0
        self.accepted: Counter[str] = Counter()
        self.reasons: dict[str, Counter[str]] = {}
        self.pairs: dict[str, list[tuple[str, str]]] = {}
        self.companions: dict[str, list[tuple[str, str]]] = {}  # the first units and paraphrases, for the card

    def count(self, rows: Iterable[CheckedRow]) -> Iterator[CheckedRow]:
        """Yield the rows unchanged."""
        for row in rows:
            self.num_rows += bool(row.caption)
            self.num_without += bool(row.caption) and not (row.negatives or row.units or row.paraphrases)
            self.num_without_image += bool(row.caption) and row.image is None
            for negative in row.negatives:
                self._keep_pair(row.caption, negative)
            self._count_companions(UNIT_FOIL, [(unit.text, unit.foil) for unit in row.units])
            self._count_companions(PARAPHRASE, [(row.caption, text) for text in row.paraphrases])
            for kind, _, reason in row.rejected:
                self.reasons.setdefault(kind, Counter())[reason] += 1
            yield row

    def _count_companions(self, kind: str, pairs: Sequence[tuple[str, str]]) -> None:
        if pairs:
            self.accepted[kind] += len(pairs)
            first = self.companions.setdefault(kind, [])
            first += pairs[: _NUM_SAMPLES - len(first)]

    def _keep_pair(self, caption: str, negative: Negative) -> None:
        self.accepted[negative.type] += 1
        pairs = self.pairs.setdefault(negative.type, [])
        if self.max_pairs is None or len(pairs) < self.max_pairs:
            pairs.append((caption, negative.text))
        elif (position := self.rng.randrange(self.accepted[negative.type])) < self.max_pairs:  # reservoir sampling
            pairs[position] = (caption, negative.text)


def _write_rows(rows: Iterable[CheckedRow], captions: Path, rejected: Path, schema: pa.Schema) -> None:
    with _GroupWriter(captions, schema) as kept, _GroupWriter(rejected, _REJECTED_SCHEMA) as log:
        for row in rows:
            for kind, text, reason in row.rejected:
                log.add({"caption": row.caption, "type": kind, "text": text, "reason": reason})
            if row.caption:
                record = {name: getattr(row, name) for name in schema.names}
                record["negatives"] = [negative._asdict() for negative in row.negatives]
                kept.add(record | ({"units": [unit._asdict() for unit in row.units]} if row.units else {}))


def _captions_schema(image_type: pa.DataType, companions: Sequence[str]) -> pa.Schema:
    columns = [("image", image_type), ("caption", pa.string()), ("negatives", _NEGATIVES_TYPE)]
    return pa.schema([*columns, *((name, _COMPANION_TYPES[name]) for name in companions)])


class _GroupWriter:
    """Writes records to a Parquet file, one group of rows at a time."""

    def __init__(self, path: Path, schema: pa.Schema):
        self.schema = schema
        self.records: list[dict[str, Any]] = []
        self.writer = pq.ParquetWriter(path, schema, compression="zstd")

    def __enter__(self) -> "_GroupWriter":
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if error_type is None:
            self._flush()
        self.writer.close()

    def add(self, record: dict[str, Any]) -> None:
        """Append a record."""
        self.records.append(record)
        if len(self.records) >= _ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        self.writer.write_table(pa.Table.from_pylist(self.records, self.schema))
        self.records = []


def _drop_negatives(path: Path, kept: Mapping[str, list[bool]]) -> int:
    """Rewrite the file without the negatives that are not kept. Returns the number of rows without negatives.

    Args:
        path: ``captions.parquet``.
        kept: kind -> one flag per negative of that kind, in the order of the file.
    """
    flags = {kind: iter(values) for kind, values in kept.items()}
    num_without = 0
    with (
        atomic_write(path) as other,
        pq.ParquetFile(path) as file,
        _GroupWriter(other, file.schema_arrow) as writer,
    ):
        for batch in file.iter_batches(_ROWS_PER_GROUP):
            for row in batch.to_pylist():
                negatives = [Negative(**n) for n in row["negatives"] if next(flags[n["type"]])]
                num_without += not negatives
                writer.add(row | {"negatives": [negative._asdict() for negative in negatives]})
    return num_without


def _evenly_spaced(items: Sequence[_Item], count: int) -> list[_Item]:
    """Return at most ``count`` items, evenly spaced."""
    step = max(1, -(-len(items) // count))
    return list(items[::step])
