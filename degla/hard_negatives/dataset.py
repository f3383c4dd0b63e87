"""The result: a folder that trains, that ``datasets`` loads, and that says what is in it."""

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from degla.data.schema import Negative
from degla.hard_negatives.text_only import BlindRow, balanced, blind_row

_ROW_GROUP = 5000
_NEGATIVES = pa.list_(pa.struct([("text", pa.string()), ("type", pa.string())]))
_REJECTED = pa.schema([(name, pa.string()) for name in ("caption", "type", "text", "reason")])
_BLIND_SAMPLE = 20_000  # pairs of a kind that the blind model sees
_SAMPLES = 5


class Judged(NamedTuple):
    """A row of the result."""

    image: Any
    caption: str
    negatives: list[Negative]
    rejected: list[tuple[str, str, str]]  # kind, text, reason


class Summary(NamedTuple):
    """What the report is made of."""

    num_rows: int
    num_without: int  # rows without any negative
    num_without_image: int
    accepted: Counter  # by kind
    reasons: dict[str, Counter]  # kind -> reason -> count; of texts, and of captions for which there was none
    samples: dict[str, list[tuple[str, str]]]
    blind: list[BlindRow]
    dropped: Counter  # by kind, to balance


def write_dataset(
    rows: Iterable[Judged], folder: Path, image_type: pa.DataType, balance: bool = False, seed: int = 0
) -> Summary:
    """Write ``captions.parquet`` (image, caption, negatives) and ``log/rejected.parquet``.

    Rows without a caption are in the second only.

    Args:
        rows: drawn once; memory holds a row group and the pairs that the blind model sees, to balance all pairs.
        folder: both files are replaced when they are whole.
        image_type: of the column of images.
        balance: drop negatives until the blind model cannot tell them from captions.
        seed: of the choice of what is dropped.
    """
    (folder / "log").mkdir(parents=True, exist_ok=True)
    part, log = folder / ".captions.part", folder / "log" / ".rejected.part"
    accepted, reasons = Counter(), {}
    pairs: dict[str, list[tuple[str, str]]] = {}
    num_rows = num_without = num_without_image = 0
    rng = random.Random(seed)
    columns = _Columns(part, image_type)
    with pq.ParquetWriter(log, _REJECTED, compression="zstd") as rejected:
        lines: list[dict] = []
        for row in rows:
            num_rows += bool(row.caption)
            num_without += bool(row.caption) and not row.negatives
            num_without_image += bool(row.caption) and row.image is None
            for negative in row.negatives:
                accepted[negative.type] += 1
                some = pairs.setdefault(negative.type, [])
                if balance or len(some) < _BLIND_SAMPLE:
                    some.append((row.caption, negative.text))
                elif (place := rng.randrange(accepted[negative.type])) < _BLIND_SAMPLE:  # each pair as likely
                    some[place] = (row.caption, negative.text)
            for kind, text, reason in row.rejected:
                reasons.setdefault(kind, Counter())[reason] += 1
                lines.append({"caption": row.caption, "type": kind, "text": text, "reason": reason})
            if row.caption:
                columns.add(row.image, row.caption, row.negatives)
            if len(lines) >= _ROW_GROUP:
                rejected.write_table(pa.Table.from_pylist(lines, _REJECTED))
                lines = []
        rejected.write_table(pa.Table.from_pylist(lines, _REJECTED))
    columns.close()
    log.replace(folder / "log" / "rejected.parquet")
    dropped: Counter = Counter()
    if balance:
        keep = {kind: balanced(some, seed) for kind, some in pairs.items()}
        num_without = _thinned(part, keep)
        for kind, flags in keep.items():
            dropped[kind] = flags.count(False)
            accepted[kind] -= dropped[kind]
            pairs[kind] = [pair for pair, kept in zip(pairs[kind], flags, strict=True) if kept]
    part.replace(folder / "captions.parquet")
    blind = [blind_row(kind, _every(some, _BLIND_SAMPLE)) for kind, some in pairs.items()]
    samples = {kind: _every(some, _SAMPLES) for kind, some in pairs.items()}
    return Summary(num_rows, num_without, num_without_image, accepted, reasons, samples, blind, dropped)


def write_card(folder: Path, summary: Summary, facts: Mapping[str, Any]) -> None:
    """``README.md``, the data card that the hub shows, and ``log/summary.json``.

    Args:
        folder: of the data set.
        summary: from ``write_dataset``.
        facts: how it was made: input, writer, model, prompts, seed, tokens.
    """
    total = sum(summary.accepted.values())
    lines = [
        "---",
        "configs: [{config_name: default, data_files: captions.parquet}]",
        "task_categories: [zero-shot-image-classification]",
        "tags: [CLIP, hard-negatives, degla]",
        "---",
        "",
        "# Captions with hard negatives",
        "",
        f"{summary.num_rows} captions with {total} negatives; {summary.num_without} captions have none.",
        *(
            [f"{summary.num_without_image} rows name no image; training needs one."]
            if summary.num_without_image
            else []
        ),
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
        "Train with `degla-train data.path=<this folder> data.image_root=<folder of the images>`.",
        "",
        "## Kinds",
        "",
        "| kind | negatives | rejected or none | dropped for balance |",
        "| --- | --- | --- | --- |",
    ]
    for kind in dict.fromkeys([*summary.accepted, *summary.reasons]):
        none = sum(summary.reasons.get(kind, {}).values())
        lines.append(f"| {kind} | {summary.accepted[kind]} | {none} | {summary.dropped[kind]} |")
    lines += ["", "## Why there is none", "", "| kind | reason | times |", "| --- | --- | --- |"]
    lines += [
        f"| {kind} | {reason.replace('|', '/')} | {times} |"
        for kind, counts in summary.reasons.items()
        for reason, times in counts.most_common(12)
    ]
    lines += ["", "## Told from captions without a picture", "", *blind_table(summary.blind), "", "## Samples", ""]
    for kind, some in summary.samples.items():
        lines += [f"**{kind}**", "", *(f"- {caption} → {negative}" for caption, negative in some), ""]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")
    content = summary._asdict() | {"blind": [row._asdict() for row in summary.blind], "facts": dict(facts)}
    (folder / "log" / "summary.json").write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def blind_table(rows: Sequence[BlindRow]) -> list[str]:
    """Markdown: 50 % is what nobody can beat who does not look."""
    lines = [
        "A text-only model (words, pairs of words, length, likelihood) chooses the caption of a pair; 50 % is chance.",
        "",
        "| kind | pairs | percent right | likelier is the caption | longer by, words | what gives negatives away |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if row.accuracy != row.accuracy:
            lines.append(f"| {row.kind} | {row.num_pairs} | too few to say | | | |")
            continue
        cues = ", ".join(f"`{cue}`" for cue in row.cues)
        lines.append(
            f"| {row.kind} | {row.num_pairs} | {100 * row.accuracy:.1f} ± {50 * (row.high - row.low):.1f} "
            f"| {100 * row.plausibility:.1f} | {row.length:+.2f} | {cues} |"
        )
    return lines


class _Columns:
    """Parquet by row groups."""

    def __init__(self, path: Path, image_type: pa.DataType):
        self.rows: list[dict] = []
        self.schema = pa.schema([("image", image_type), ("caption", pa.string()), ("negatives", _NEGATIVES)])
        self.writer = pq.ParquetWriter(path, self.schema, compression="zstd")

    def add(self, image: Any, caption: str, negatives: Sequence[Negative]) -> None:
        self.rows.append({"image": image, "caption": caption, "negatives": [n._asdict() for n in negatives]})
        if len(self.rows) >= _ROW_GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self.writer.close()

    def _flush(self) -> None:
        self.writer.write_table(pa.Table.from_pylist(self.rows, self.schema))
        self.rows = []


def _thinned(path: Path, keep: Mapping[str, list[bool]]) -> int:
    """Take out of the file what is not kept; the number of rows without negatives."""
    flags = {kind: iter(values) for kind, values in keep.items()}
    other = path.with_name(".thinned.part")
    num_without = 0
    with pq.ParquetFile(path) as file:
        columns = _Columns(other, file.schema_arrow.field("image").type)
        for batch in file.iter_batches(_ROW_GROUP):
            for row in batch.to_pylist():
                kept = [Negative(**n) for n in row["negatives"] if next(flags[n["type"]])]
                num_without += not kept
                columns.add(row["image"], row["caption"], kept)
    columns.close()
    other.replace(path)
    return num_without


def _every(items: Sequence, count: int) -> list:
    """At most ``count``, evenly spread."""
    step = max(1, -(-len(items) // count))
    return list(items[::step])
