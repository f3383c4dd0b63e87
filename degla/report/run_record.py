"""The provenance of a run: command, commit, versions, machine and duration, read from its folder."""

import json
import shlex
from pathlib import Path

import yaml

from degla.artifacts import atomic_write, provenance

_PROVENANCE = "provenance.json"


def run_facts(run_dir: Path) -> dict[str, str]:
    """Return name -> text of the facts about how a run was made.

    Commit, versions and machine are those of the first call for this folder. They are kept in ``provenance.json``,
    so that a report that is written again later, elsewhere, still names the run's own.

    Args:
        run_dir: folder of the run.
    """
    path = run_dir / _PROVENANCE
    if not path.is_file():
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(provenance(), indent=1) + "\n", encoding="utf-8")
    recorded = json.loads(path.read_text(encoding="utf-8"))
    return {"command": command(run_dir), **recorded, "folder": str(run_dir)}


def command(run_dir: Path) -> str:
    """Return the command of a run, as far as Hydra has recorded it."""
    overrides = run_dir / ".hydra" / "overrides.yaml"
    words = yaml.safe_load(overrides.read_text(encoding="utf-8")) if overrides.is_file() else []
    return shlex.join(["degla-train", *words])


def duration(run_dir: Path) -> str:
    """Return the time from the run's last start to its last logged value; "" where it is not known."""
    start, end = run_dir / "config.yaml", run_dir / "metrics.csv"
    if not (start.is_file() and end.is_file()):
        return ""
    seconds = max(0, round(end.stat().st_mtime - start.stat().st_mtime))
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"
