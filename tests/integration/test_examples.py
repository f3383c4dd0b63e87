"""Every script in examples/ runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run_example(path: Path, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, str(path)], cwd=cwd, env=environment, capture_output=True, text=True,
                            timeout=400)  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs_as_a_script_and_has_cells(path, tmp_path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith('"""') and text.count("# %% [markdown]") >= 2
    assert run_example(path, tmp_path).strip()


def test_the_losses_of_the_example_are_those_of_the_objective(tmp_path):
    """The printed total is the weighted sum of the printed terms."""
    lines = dict(line.split() for line in run_example(ROOT / "examples/losses_on_tensors.py", tmp_path).splitlines())
    weights = {"contrastive": 1.0, "igc": 0.1, "tgc": 0.1, "distill": 1.28}
    total = sum(weight * float(lines[name]) for name, weight in weights.items())
    assert float(lines["total"]) == pytest.approx(total, abs=2e-3)
