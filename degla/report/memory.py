"""The record of a run's memory plan, ``memory.json``, and the part of the report that shows it."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from degla.report.page import table
from degla.report.run_json import read_record, write_record

_FILE = "memory.json"  # in the folder of the run
_PARTS = ("weights", "teacher", "gradients", "optimizer", "activations")


class MemoryRecord(BaseModel):
    """Bytes that a step of one process needs on its device, as planned, and as measured on a GPU."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: int = Field(ge=0)
    teacher: int = Field(ge=0)
    gradients: int = Field(ge=0)
    optimizer: int = Field(ge=0)
    activations: int = Field(ge=0)
    precision: str
    samples: int  # of a step on this process
    encoded_at_once: int  # samples whose activations are in memory at a time
    device: str
    available: int | None  # bytes that were free before the first step; None where it is not known
    remedies: dict[str, int]  # setting -> bytes that a step would need with it; empty where the step fits
    measured: int | None = None  # the allocator's peak; None on a CPU

    @property
    def total(self) -> int:
        """The peak in bytes."""
        return self.weights + self.teacher + self.gradients + self.optimizer + self.activations

    @property
    def fits(self) -> bool:
        """Whether the plan is within what is free."""
        return self.available is None or self.total <= self.available


def write_memory(run_dir: Path, record: MemoryRecord) -> None:
    """Write the record into the folder of the run.

    Args:
        run_dir: folder of the run.
        record: the plan.
    """
    write_record(run_dir / _FILE, record)


def read_memory(run_dir: Path) -> MemoryRecord | None:
    """Return the record of a run, or None if there is none that this release can read."""
    return read_record(run_dir / _FILE, MemoryRecord)


def describe_memory(record: MemoryRecord) -> str:
    """Return the plan in one line."""
    parts = ", ".join(f"{name} {gigabytes(getattr(record, name))}" for name in _PARTS if getattr(record, name))
    free = "" if record.available is None else f"; {gigabytes(record.available)} free"
    return f"about {gigabytes(record.total)} GB a step ({parts}){free}"


def memory_section(run_dir: Path) -> str:
    """Return the HTML of the plan; "" for a run without one."""
    record = read_memory(run_dir)
    if record is None:
        return ""
    rows = [[name, gigabytes(getattr(record, name))] for name in (*_PARTS, "total")]
    if record.measured is not None:
        rows.append(["measured", gigabytes(record.measured)])
    if record.available is not None:
        rows.append(["free before the first step", gigabytes(record.available)])
    rows += [[f"with {setting}", gigabytes(needed)] for setting, needed in record.remedies.items()]
    note = (
        f"<p>One process, {record.samples} samples a step, {record.encoded_at_once} of them encoded at a time, "
        f"precision {record.precision}. Planned before the first step; docs/memory.md says how.</p>"
    )
    return "<h2>Memory</h2>" + table(["memory of a step", "GB"], rows) + note


def gigabytes(size: int) -> str:
    """Return bytes as gigabytes of 1e9, with two digits where there are few."""
    value = size / 1e9
    return f"{value:.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"
