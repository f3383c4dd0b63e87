"""Results of evaluations on disk: ``results.json`` and, item by item, ``items.parquet``."""

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from degla.artifacts import atomic_write, provenance
from degla.errors import ConfigError
from degla.evaluation import Result
from degla.evaluation.items import Outcome

FORMAT = 2
_COLUMNS_OF_FORMAT_1 = {"right": "correct", "picture": "image"}  # format 2 renamed two columns


class Evaluation(NamedTuple):
    """One model, measured."""

    folder: Path
    label: str
    benchmarks: dict[str, dict]
    record: dict

    def outcomes(self, benchmark: str) -> list[Outcome]:
        """The answers to every item."""
        table = pq.read_table(self.folder / "items.parquet", filters=[("benchmark", "==", benchmark)])
        table = table.rename_columns([_COLUMNS_OF_FORMAT_1.get(name, name) for name in table.column_names])
        return [Outcome(**{name: row[name] for name in Outcome._fields}) for row in table.to_pylist()]


def write_results(
    folder: Path,
    label: str,
    model: Mapping[str, Any],
    benchmarks: Mapping[str, dict],
    results: Mapping[str, Result],
    seconds: float,
    num_encoded: Mapping[str, int],
) -> None:
    """Write both files, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, list] = {"benchmark": [], **{name: [] for name in Outcome._fields}, "blind_right": []}
    for name, result in results.items():
        blind = {(outcome.subset, outcome.item): outcome.correct for outcome in result.blind}
        for outcome in result.outcomes:
            columns["benchmark"].append(name)
            columns["blind_right"].append(blind.get((outcome.subset, outcome.item)))
            for field, value in zip(Outcome._fields, outcome, strict=True):
                columns[field].append(value)
    schema = {"correct": pa.bool_(), "tie": pa.bool_(), "blind_right": pa.bool_()}
    schema |= {"margin": pa.float32(), "chance": pa.float32()}
    table = pa.table({name: pa.array(values, schema.get(name, pa.string())) for name, values in columns.items()})
    with atomic_write(folder / "items.parquet") as partial:
        pq.write_table(table, partial, compression="zstd")
    content = {
        "format": FORMAT,
        "label": label,
        "model": model,
        "benchmarks": benchmarks,
        "made": {
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            "encoded": num_encoded,
            **provenance(),
        },
    }
    with atomic_write(folder / "results.json") as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_results(folder: Path) -> Evaluation:
    """Read what ``write_results`` wrote.

    Raises:
        ConfigError: there is nothing, or it is of another format.
    """
    path = folder / "results.json"
    if not path.is_file() or not (folder / "items.parquet").is_file():
        raise ConfigError(f"compare: there is no {path} with items.parquet; give folders of python -m degla.evaluate")
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("format") not in (1, FORMAT):
        raise ConfigError(f"compare: {path} is of format {content.get('format')}, this degla reads {FORMAT}")
    return Evaluation(folder, content["label"], content["benchmarks"], content)


def protocol_differences(evaluations: Sequence[Evaluation], benchmark: str) -> list[str]:
    """Where the rules or the data of one benchmark were not the same, a sentence each."""
    measured = [evaluation for evaluation in evaluations if benchmark in evaluation.benchmarks]
    sentences = []
    for other in measured[1:]:
        ours, theirs = (evaluation.benchmarks[benchmark]["protocol"] for evaluation in (measured[0], other))
        keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
        if keys:
            parts = "; ".join(f"{key}: {_short(ours.get(key))} against {_short(theirs.get(key))}" for key in keys)
            sentences.append(f"{measured[0].label} and {other.label} were not measured alike: {parts}.")
    return sentences


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 80 else f"{text[:77]}..."
