"""The record of a run's retention guard, ``retention.json``, and the part of the report that shows it."""

import html
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict, Field

from degla.report.figures import embedded_png
from degla.report.page import table
from degla.report.run_json import read_record, write_record

_FILE = "retention.json"  # in the folder of the run


class Candidate(BaseModel):
    """Weights that can become the run's model, and their values; ``retain`` is None where only ``metric`` counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = Field(ge=0)  # optimizer steps of the fine-tuned weights
    wise_ft: float = Field(ge=0, le=1)  # their share; the rest is the base's
    metric: float = Field(allow_inf_nan=False)
    retain: float | None = Field(allow_inf_nan=False)


class RetentionRecord(BaseModel):
    """What the guard measured and chose."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    retain: str | None
    floor: float = Field(ge=0)
    measured_on: dict[str, str]  # benchmark -> the data behind its values
    base: Candidate
    steps: list[Candidate]  # the student during the run
    mixes: list[Candidate]  # base and fine-tuned weights mixed, after the last step
    chosen: Candidate
    meets_floor: bool  # False: nothing but the base does, and ``chosen`` is the base
    nearest: Candidate | None  # the fine-tuned candidate with the highest ``retain``, where none meets the floor
    stopped_early: bool

    @property
    def limit(self) -> float | None:
        """The lowest ``retain`` that the guard admits."""
        return None if self.base.retain is None else self.floor * self.base.retain

    @property
    def chose_last_step(self) -> bool:
        """Whether the chosen weights are the student's after the last step, unmixed."""
        return bool(self.steps) and self.chosen.wise_ft == 1 and self.chosen.step == self.steps[-1].step


def write_retention(run_dir: Path, record: RetentionRecord) -> None:
    """Write the record into the folder of the run.

    Args:
        run_dir: folder of the run.
        record: what the guard chose.
    """
    write_record(run_dir / _FILE, record)


def read_retention(run_dir: Path) -> RetentionRecord | None:
    """Return the record of a run; None if it has no guard, or has not ended yet."""
    return read_record(run_dir / _FILE, RetentionRecord)


def describe_choice(record: RetentionRecord) -> str:
    """Return one line that says which weights ``model/`` holds, and their values against the base's."""
    chosen, base = record.chosen, record.base
    weights = "the base model" if chosen.wise_ft == 0 else f"step {chosen.step}"
    if 0 < chosen.wise_ft < 1:
        weights = f"{chosen.wise_ft:g} of step {chosen.step} and {1 - chosen.wise_ft:g} of the base (WiSE-FT)"
    text = f"{weights}: {record.metric} {100 * base.metric:.1f} → {100 * chosen.metric:.1f}"
    if record.retain is not None and base.retain is not None and chosen.retain is not None:
        text += f", {record.retain} {100 * base.retain:.1f} → {100 * chosen.retain:.1f}"
    return text if record.meets_floor else f"{text}; nothing else meets the floor"


def retention_section(run_dir: Path) -> str:
    """Return the HTML of the guard's choice, its curve and its values; "" for a run without a guard."""
    record = read_retention(run_dir)
    if record is None:
        return ""
    parts = ["<h2>Retention</h2>", f"<p>model/ holds {html.escape(describe_choice(record))}.</p>"]
    if not record.meets_floor and record.nearest is not None:
        parts.append(
            f"<p>No fine-tuned weights keep {record.floor:g} of the base's {html.escape(str(record.retain))}. The "
            f"nearest are those of step {record.nearest.step} with wise_ft={record.nearest.wise_ft:g}.</p>"
        )
    if record.base.retain is not None:
        parts.append(embedded_png(_figure(record), f"{record.metric} against {record.retain}"))
    return "".join(parts) + _table(record) + _sources(record)


def _figure(record: RetentionRecord) -> Figure:
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    _draw(axes, record.steps, "-", "steps of the run")
    for step in sorted({mix.step for mix in record.mixes}):
        tuned = next(candidate for candidate in record.steps if candidate.step == step)
        mixes = [mix for mix in record.mixes if mix.step == step]
        _draw(axes, [record.base, *mixes, tuned], "--", f"base mixed with step {step}")
    base, chosen, limit = record.base, record.chosen, record.limit
    axes.plot([100 * (base.retain or 0)], [100 * base.metric], "ks", label="base")
    axes.plot([100 * (chosen.retain or 0)], [100 * chosen.metric], "*", color="#b3261e", markersize=16, label="chosen")
    if limit is not None:
        axes.axvline(100 * limit, color="#646b73", linestyle=":", label=f"floor, {record.floor:g} of the base")
    axes.set(xlabel=f"{record.retain}, percent", ylabel=f"{record.metric}, percent")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _draw(axes: Axes, candidates: list[Candidate], line: str, label: str) -> None:
    points = [(100 * c.retain, 100 * c.metric) for c in candidates if c.retain is not None]
    axes.plot([x for x, _ in points], [y for _, y in points], line, marker=".", label=label)


def _table(record: RetentionRecord) -> str:
    rows = []
    for candidate in (record.base, *record.steps, *record.mixes):
        kept = "" if candidate.retain is None else f"{100 * candidate.retain:.1f}"
        admitted = record.limit is None or (candidate.retain is not None and candidate.retain >= record.limit)
        mark = "chosen" if candidate == record.chosen else "" if admitted else "below the floor"
        rows.append(
            [str(candidate.step), f"{candidate.wise_ft:g}", f"{100 * candidate.metric:.1f}", kept, mark],
        )
    return table(["step", "wise_ft", record.metric, record.retain or "", ""], rows)


def _sources(record: RetentionRecord) -> str:
    lines = [f"{html.escape(name)}: {html.escape(data)}" for name, data in record.measured_on.items()]
    return f"<p>Measured on {'; '.join(lines)}.</p>" if lines else ""
