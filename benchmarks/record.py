"""Write the record of a benchmark: its figures with command, commit, versions and machine."""

import json
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from degla.artifacts import provenance

HERE = Path(__file__).parent


def save(name: str, settings: dict[str, Any], figures: dict[str, Any]) -> Path:
    """Print the figures and write ``benchmarks/records/<name>.json``.

    Args:
        name: name of the record.
        settings: what was measured: model, sizes, data.
        figures: the results; times are in seconds.

    Returns:
        The path of the record.
    """
    script = f"benchmarks/{Path(sys.argv[0]).name}"  # run as a module, Python gives an absolute path
    command = " ".join(["python", script, *sys.argv[1:]])
    record = {"command": command, **machine(), "settings": settings, "figures": figures}
    text = json.dumps(record, indent=1)
    path = HERE / "records" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    print(text)
    return path


def machine() -> dict[str, Any]:
    """Return commit, versions, device and number of threads."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu()
    return {**provenance(), "device": device, "threads": torch.get_num_threads()}


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Return median, minimum, maximum and number of several timings."""
    low, high = min(seconds), max(seconds)
    return {"median": statistics.median(seconds), "min": low, "max": high, "repeats": len(seconds)}


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
