"""Results of evaluations on disk: ``results.json`` and, item by item, ``items.parquet``."""

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, TypeAdapter

from degla.artifacts import atomic_write, provenance
from degla.errors import ConfigError
from degla.evaluation import Result
from degla.evaluation.items import Outcome
from degla.evaluation.schemas import ForeignModel, validated

FORMAT = 2
_COLUMNS_OF_FORMAT_1 = {"right": "correct", "picture": "image"}  # format 2 renamed two columns


class _Score(ForeignModel):
    accuracy: float
    interval: Annotated[list[float], Field(min_length=2, max_length=2)]
    blind: float | None = None


class _SubsetScore(_Score):
    num_items: int
    ties: int
    macro: float | None
    chance: float


class _Benchmark(ForeignModel):
    subsets: dict[str, _SubsetScore]
    means: dict[str, _Score]
    protocol: dict[str, Any]
    fingerprint: str
    num_left_out: int
    official: dict[str, int | None] = {}


class _Results(ForeignModel):
    label: str
    benchmarks: dict[str, _Benchmark]


_RESULTS = TypeAdapter(_Results)


class Evaluation(NamedTuple):
    """The results of one model."""

    folder: Path
    label: str
    benchmarks: dict[str, dict[str, Any]]  # name -> scores and protocol
    record: dict[str, Any]  # the whole of results.json

    def outcomes(self, benchmark: str) -> list[Outcome]:
        """Read the answers to every item of a benchmark."""
        table = pq.read_table(self.folder / "items.parquet", filters=[("benchmark", "==", benchmark)])
        table = table.rename_columns([_COLUMNS_OF_FORMAT_1.get(name, name) for name in table.column_names])
        return [Outcome(**{name: row[name] for name in Outcome._fields}) for row in table.to_pylist()]


def write_results(
    folder: Path,
    label: str,
    model: Mapping[str, Any],
    benchmarks: Mapping[str, dict[str, Any]],
    results: Mapping[str, Result],
    seconds: float,
    num_encoded: Mapping[str, int],
    command: str = "",
) -> None:
    """Write ``items.parquet``, then ``results.json``; a kill leaves each file whole or absent.

    Args:
        folder: where to write; created where it is missing.
        label: name of the model in tables.
        model: what the model is: name, weights, fingerprint.
        benchmarks: name -> record, from ``benchmark_records``.
        results: name -> answers, from ``run_benchmarks``.
        seconds: duration of the evaluation.
        num_encoded: number of images and texts that were encoded.
        command: the command line; "" where there was none.
    """
    with atomic_write(folder / "items.parquet") as partial:
        pq.write_table(_items_table(results), partial, compression="zstd")
    content = {
        "format": FORMAT,
        "label": label,
        "model": model,
        "benchmarks": benchmarks,
        "made": {
            "command": command,
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            "encoded": num_encoded,
            **provenance(),
        },
    }
    with atomic_write(folder / "results.json") as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_results(folder: Path) -> Evaluation:
    """Read the results that ``write_results`` wrote.

    Raises:
        ConfigError: the folder holds no results, or results of another format.
    """
    path = folder / "results.json"
    if not path.is_file() or not (folder / "items.parquet").is_file():
        raise ConfigError(f"compare: there is no {path} with items.parquet; give folders of python -m degla.evaluate")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict) and record.get("format") not in (1, FORMAT):
            raise ConfigError(f"compare: {path} is of format {record.get('format')}, this degla reads {FORMAT}")
        validated(_RESULTS, record)
        _check_columns(folder / "items.parquet")
    except (ValueError, RecursionError, OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"compare: {folder} holds no results of python -m degla.evaluate: {reason}") from error
    return Evaluation(folder, record["label"], record["benchmarks"], record)


def protocol_differences(evaluations: Sequence[Evaluation], benchmark: str) -> list[str]:
    """Return one sentence for each evaluation whose rules or data differ from those of the first.

    Args:
        evaluations: those that did not measure the benchmark are left out.
        benchmark: its name.
    """
    measured = [evaluation for evaluation in evaluations if benchmark in evaluation.benchmarks]
    sentences = []
    for other in measured[1:]:
        first, second = (evaluation.benchmarks[benchmark]["protocol"] for evaluation in (measured[0], other))
        keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
        if keys:
            parts = "; ".join(f"{key}: {_short(first.get(key))} against {_short(second.get(key))}" for key in keys)
            sentences.append(f"{measured[0].label} and {other.label} were not measured alike: {parts}.")
    return sentences


def _check_columns(path: Path) -> None:
    names = {_COLUMNS_OF_FORMAT_1.get(name, name) for name in pq.read_schema(path).names}
    if missing := {"benchmark", *Outcome._fields} - names:
        raise ValueError(f"{path} has no column {min(missing)}")


def _items_table(results: Mapping[str, Result]) -> pa.Table:
    columns: dict[str, list[Any]] = {"benchmark": [], **{name: [] for name in Outcome._fields}, "blind_right": []}
    for name, result in results.items():
        without_image = {(outcome.subset, outcome.item): outcome.correct for outcome in result.no_image}
        for outcome in result.outcomes:
            columns["benchmark"].append(name)
            columns["blind_right"].append(without_image.get((outcome.subset, outcome.item)))
            for field, value in zip(Outcome._fields, outcome, strict=True):
                columns[field].append(value)
    types = {"correct": pa.bool_(), "tie": pa.bool_(), "blind_right": pa.bool_()}
    types |= {"margin": pa.float32(), "chance": pa.float32()}
    return pa.table({name: pa.array(values, types.get(name, pa.string())) for name, values in columns.items()})


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 80 else f"{text[:77]}..."
