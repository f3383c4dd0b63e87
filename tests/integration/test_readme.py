"""The offline code blocks of README.md run, top to bottom, in a folder of made-up photos.

A block counts if ``<!-- runs -->`` stands above it. The commands are the real programs; only what a test cannot afford
is replaced: OpenAI's ViT-B/32 by the tiny model with random weights, and the length of the run.
"""

import json
import os
import re
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.forked import forked_python

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- runs -->\n```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL)

CAPTIONS = [
    "A black dog chases a white cat .",
    "Two men in red shirts ride an old bike on the street .",
    "A woman with a large umbrella stands next to a wooden bench .",
    "A young girl eats an apple under a tall tree .",
]

# What each program gets besides README's own arguments.
SMALLER = {
    "train": (
        "model=tiny",
        "loader.global_batch_size=8",
        "loader.num_workers=0",
        "trainer.max_steps=4",
        "trainer.val_check_interval=2",
        "trainer.accelerator=cpu",
        "callbacks.progress_bar=null",
    ),
    "evaluate": ("model=tiny", "num_workers=0", "batch_size=8", "device=cpu"),
    "negatives": (),
    "export": (),
}


def blocks() -> list[tuple[str, str]]:
    """Language and code of each marked block."""
    return BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with ``photos/`` as README describes it, and the programs on the path."""
    folder = tmp_path_factory.mktemp("readme")
    make_photos(folder / "photos")
    (folder / "bin").mkdir()
    for program, arguments in SMALLER.items():
        # OpenAI's weights are not on this machine.
        settings = " ".join(arguments)
        write_script(
            folder / f"bin/degla-{program}",
            f'for word do shift; case "$word" in model.pretrained=openai) word=model.pretrained=null;; esac; '
            f'set -- "$@" "$word"; done\nexec {forked_python()} -m degla.{program} "$@" {settings}',
        )
    # README's make commands install: here only that the targets exist.
    write_script(folder / "bin/make", f'exec /usr/bin/env -i PATH=/usr/bin:/bin make -n -C {ROOT} "$@" > make.log')
    return folder


def make_photos(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    lines = ["image,caption"]
    for number in range(32):
        pixels = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 70)).save(folder / f"{number}.jpg")
        lines.append(f"{number}.jpg,{CAPTIONS[number % 4]}")
    (folder / "captions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    item = {"captions": ["a dog left of a cat", "a cat left of a dog"], "label": 0}
    items = [json.dumps({"image": f"{number}.jpg", **item}) for number in range(8)]
    (folder / "items.jsonl").write_text("\n".join(items) + "\n", encoding="utf-8")


def write_script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_the_blocks_run_in_order(home):
    environment = {
        **os.environ,
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    marked = blocks()
    assert [language for language, _ in marked] == ["bash", "bash", "python"]
    for language, code in marked:
        command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [forked_python(), "-c", code]
        result = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=400)
        assert result.returncode == 0, f"{code}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    scores = result.stdout
    assert re.search(r"tensor\(\[-?\d", scores)

    negatives = home / "photos/captions_negatives"
    assert (negatives / "captions.parquet").is_file() and (negatives / "README.md").is_file()
    run = next((home / "runs/photos").iterdir())
    assert (run / "report.html").is_file() and (run / "model/open_clip_config.json").is_file()
    compared = json.loads((home / "runs/tuned/results.json").read_text())
    assert compared["benchmarks"]["own"]["subsets"] and (home / "runs/tuned/explorer.html").is_file()
    assert (home / "photos_clip/config.json").is_file()
    assert (
        "degla.train experiment=demo" in (home / "make.log").read_text() or "pytest" in (home / "make.log").read_text()
    )


def test_every_other_block_names_what_it_needs():
    """Blocks that are not run need the network, a GPU, or data that nobody may redistribute."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    not_run = [code for code in re.findall(r"```(?:bash|python)\n(.*?)```", text, re.DOTALL) if code not in
               {code for _, code in blocks()}]  # fmt: skip
    needs = ("git clone", "degla-try ", "degla-data ", "docker build")
    assert len(not_run) == len(needs)
    for code, need in zip(not_run, needs, strict=True):
        assert need in code
