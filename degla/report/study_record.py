"""The record of a study, ``study.json``: made from measured runs, written, and read again."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from degla.artifacts import atomic_write
from degla.errors import ConfigError
from degla.report.study_measure import Method, hypervolumes, study_methods
from degla.report.study_schema import Base, Choice, Run, StudyRecord

_DIGITS = 8  # of a hypervolume, which is a fraction of the plane of two accuracies


def make_record(runs: Sequence[Run], base: Base, **settings: Any) -> StudyRecord:
    """Return the record of runs that are measured on both splits.

    Args:
        runs: with validation scores, and with test scores of every candidate that is reported.
        base: the model that they started from.
        settings: the other fields of ``StudyRecord``, without ``chosen`` and ``hypervolume``.

    Raises:
        ValidationError: a score is missing or is not a fraction.
    """
    record = StudyRecord(runs=list(runs), base=base, chosen={}, hypervolume={}, **settings)
    derived = _derived(record)
    return StudyRecord(**{**dict(record), **derived})


def methods_of(record: StudyRecord) -> dict[str, Method]:
    """Return the methods of a record, in the order of its panels, then by name."""
    methods = study_methods(record.runs, record.base.validation, record.metric, record.retain, record.retentions)
    in_panels = [name for names in record.panels.values() for name in names]
    order = dict.fromkeys([*(name for name in in_panels if name in methods), *sorted(methods)])
    return {name: methods[name] for name in order}


def write_record(record: StudyRecord, path: Path) -> None:
    """Write the record as JSON with one line per run, so that two records can be compared line by line.

    Args:
        record: the record.
        path: the file.
    """
    content = record.model_dump(mode="json")
    parts = []
    for name, value in content.items():
        text = json.dumps(value, indent=1).replace("\n", "\n ")
        if name == "runs":
            text = "[\n" + ",\n".join(f"  {json.dumps(run)}" for run in value) + "\n ]"
        parts.append(f' "{name}": {text}')
    with atomic_write(path) as partial:
        partial.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def read_record(path: Path, key: str = "replot") -> StudyRecord:
    """Read and check a record.

    Args:
        path: the file.
        key: the config key that names it, for messages.

    Raises:
        ConfigError: the file is not a record of format 2, or what was chosen does not follow from its runs.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and "format" not in content and {"start", "methods"} <= content.keys():
            raise ConfigError(_format_1_sentence(path, key, content))
        record = StudyRecord.model_validate(content)
        contradictions = _contradictions(record)
    except (OSError, ValueError, RecursionError) as error:  # pydantic's ValidationError is a ValueError
        raise ConfigError(f"{key}={path} is not the study.json of an earlier study: {_reason(error)}") from error
    if contradictions:
        raise ConfigError(
            f"{key}={path}: {contradictions[0]} does not follow from its runs, so the file was changed by hand or "
            "written by another release: measure again with degla-study runs=<folder>"
        )
    return record


def _derived(record: StudyRecord) -> dict[str, Any]:
    """Return the fields that follow from the others."""
    methods = methods_of(record)
    return {
        "chosen": {
            name: [Choice(retention=level, setting=c.setting, share=c.share) for level, c in method.chosen.items()]
            for name, method in methods.items()
        },
        "hypervolume": {
            name: {
                seed: round(area, _DIGITS)
                for seed, area in hypervolumes(method, record.base.test, record.metric, record.retain).items()
            }
            for name, method in methods.items()
        },
    }


def _contradictions(record: StudyRecord) -> list[str]:
    derived = _derived(record)
    wrong = [f"the choice of {name}" for name, own in derived["chosen"].items() if record.chosen.get(name) != own]
    for name, areas in derived["hypervolume"].items():
        stored = record.hypervolume.get(name, {})
        if stored.keys() != areas.keys() or any(
            not math.isclose(stored[seed], area, abs_tol=10**-_DIGITS * 2) for seed, area in areas.items()
        ):
            wrong.append(f"the hypervolume of {name}")
    return wrong


def _format_1_sentence(path: Path, key: str, content: dict[str, Any]) -> str:
    commit = (content.get("provenance") or {}).get("commit", "an earlier commit")
    return (
        f"{key}={path} is of format 1, which chose one learning rate per method: draw it with degla at commit "
        f"{commit}, or measure its runs again with degla-study runs=<folder>"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        return f"{place}: {first['msg']}" if place else first["msg"].removeprefix("Value error, ")
    return " ".join(str(error).split())
