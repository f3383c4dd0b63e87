"""What is installed is what runs: layering, the wheel, where configs are found."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# folder or file -> what of degla it may import
# room or file -> what else of degla it may import when it is imported
BASE = {"artifacts", "errors", "hub"}
ALLOWED = {
    "losses": {"errors"},
    "models": BASE,
    "data": BASE,
    "evaluation": BASE | {"data", "models"},
    "hard_negatives": BASE | {"data"},
    "report": BASE | {"data", "evaluation", "hard_negatives", "models"},
    "cli": BASE | {"report"},
    "training": BASE | {"cli", "data", "evaluation", "losses", "models", "report"},
    "artifacts": set(),
    "errors": set(),
    "hub": set(),
}
ONLY = {
    "open_clip": {"models"},
    "hydra": {"cli"},
    "lightning": {"training", "train"},
}
EXCEPTIONS = {"data/datamodule.py": {"lightning"}}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", sorted((ROOT / "degla").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    relative = path.relative_to(ROOT / "degla")
    part = relative.parts[0].removesuffix(".py")
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "degla" and part in ALLOWED:
            assert rest.split(".")[0] in ALLOWED[part] | {part}, f"{path} imports {name}"
        if top in ONLY and top not in EXCEPTIONS.get(str(relative), ()):
            assert part in ONLY[top], f"{path} imports {name}"
        if part == "losses":
            assert top in {"torch", "degla", "typing", "collections", "functools"}, f"{path} imports {name}"


def test_wheel_finds_its_configs_from_anywhere(tmp_path):
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path / "dist"),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    wheel = next((tmp_path / "dist").glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    source = {str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml") if "local" not in path.parts}
    assert {name.removeprefix("degla/") for name in names if name.startswith("degla/configs/")} == source
    for name in ("report/published.yaml", "report/explorer.html", "evaluation/symmetric_relations.txt"):
        assert f"degla/{name}" in names
    assert {"degla/hard_negatives/language/lexicon.yaml", "degla/hard_negatives/llm/prompts/swap_nouns.yaml"} <= set(
        names
    )
    assert "degla/models/architectures/degla-tiny.json" in names
    assert "degla/models/architectures/degla-scenes.bpe.gz" in names
    assert "degla/models/pretrained/degla-scenes/plain_clip.safetensors" in names
    assert not any(name.startswith(("tests", "configs")) for name in names)
    (tmp_path / "elsewhere").mkdir()
    code = "import sys, degla.cli.paths as c, degla.train as t; print(c.config_dir()); del sys.argv[1]; t.main()"
    result = subprocess.run(
        [sys.executable, "-c", code, "x", "--cfg", "job", "experiment=demo"],
        cwd=tmp_path / "elsewhere",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == str(tmp_path / "site" / "degla" / "configs")
    assert "name: demo" in result.stdout


def test_checkout_finds_its_configs_from_anywhere(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "degla.train", "--cfg", "job"], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0 and "name: train" in result.stdout


def test_own_experiments_from_a_folder_of_ones_own(tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "my.yaml").write_text("# @package _global_\nname: my\n")
    command = [sys.executable, "-m", "degla.train", "--config-dir", "mine", "experiment=my", "--cfg", "job"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0 and "name: my" in result.stdout
