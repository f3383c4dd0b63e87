"""Every script in examples/ runs."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.helpers.forked import forked_python

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run_example(path: Path, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([forked_python(), str(path)], cwd=cwd, env=environment, capture_output=True, text=True,
                            timeout=400)  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def test_the_losses_add_up_to_the_total(tmp_path):
    """The printed total is the weighted sum of the printed terms."""
    lines = dict(line.split() for line in run_example(ROOT / "examples/losses_on_tensors.py", tmp_path).splitlines())
    weights = {"contrastive": 1.0, "igc": 0.1, "tgc": 0.1, "distill": 1.28}
    total = sum(weight * float(lines[name]) for name, weight in weights.items())
    assert float(lines["total"]) == pytest.approx(total, abs=2e-3)


def test_finetuning_teaches_the_captions_of_the_folder(tmp_path):
    output = run_example(ROOT / "examples/finetune_on_your_captions.py", tmp_path)
    before, after = map(float, re.search(r"caption choice (\S+) -> (\S+)", output).groups())
    assert after > before
    scores = [float(score) for score in re.findall(r"^(\d\.\d+)  a ", output, re.MULTILINE)]
    assert len(scores) == 2 and all(0 < score <= 1 for score in scores)
    assert Path(tmp_path, re.search(r"report +(\S+)", output)[1]).is_file()


def test_the_comparison_has_every_sub_task(tmp_path):
    output = run_example(ROOT / "examples/compare_two_models.py", tmp_path)
    rows = re.findall(r"^scenes/\S+ +(\d+\.\d) +(\d+\.\d) +([+-]\d+\.\d)$", output, re.MULTILINE)
    assert len(rows) == 19 and any(float(change) != 0 for *_, change in rows)
    assert all(float(after) - float(before) == pytest.approx(float(change), abs=0.11) for before, after, change in rows)
    assert Path(tmp_path, re.search(r"explorer (\S+)", output)[1]).is_file()


def test_no_example_is_forgotten_and_each_has_cells():
    """Each script is a notebook too: a docstring, then cells."""
    assert [path.stem for path in EXAMPLES] == [
        "compare_two_models",
        "finetune_on_your_captions",
        "losses_on_tensors",
    ]
    for path in EXAMPLES:
        text = path.read_text(encoding="utf-8")
        assert text.startswith('"""') and text.count("# %% [markdown]") >= 2 and path.name in text
