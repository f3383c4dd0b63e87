"""The third-party method of docs/methods.md: its very text, run end to end in an empty folder."""

import os
import re
import subprocess
from pathlib import Path

from tests.conftest import read_csv
from tests.helpers.forked import forked_python

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- runs -->\n```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL)

# What a test cannot afford: the length of the run and its benchmark.
SMALLER = (
    "data.num_scenes=64 benchmark=none loader.num_workers=0 callbacks.progress_bar=null callbacks.export=null "
    "trainer.log_every_n_steps=1"
)


def test_a_method_of_ones_own(tmp_path):
    (python, module), (yaml, config), (bash, command) = BLOCK.findall(
        (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    )
    assert (python, yaml, bash) == ("python", "yaml", "bash")
    assert len([line for line in module.splitlines()[1:] if line.strip()]) <= 10
    for text in (module, config):
        file = tmp_path / text.splitlines()[0].removeprefix("# ")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text(f'#!/bin/sh\nexec {forked_python()} "$@" {SMALLER}\n', encoding="utf-8")
    (tmp_path / "bin/python").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    assert "contrastive 1, margin 0.5" in result.stdout + result.stderr
    (run,) = (tmp_path / "runs/scenes_finetune").iterdir()
    rows = read_csv(run / "metrics.csv")
    values = [float(row["value"]) for row in rows if row["name"] == "train/loss_margin"]
    assert values and all(0 < value < 4 for value in values)
