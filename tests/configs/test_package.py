"""The package: the direction of imports, what the wheel holds, where configs are found."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

BASE = {"artifacts", "bounds", "compat", "errors", "hub", "objective_terms"}
# Room (a folder or file of degla/) -> what else of degla/ it may import, anywhere in its files.
ROOMS = {
    "bounds": {"errors"},
    "losses": {"bounds", "errors"},
    "objective_terms": set(),
    "compat": set(),
    "errors": set(),
    "artifacts": {"errors"},
    "hub": {"compat"},
    "models": BASE,
    "data": BASE,
    "evaluation": BASE | {"data", "models"},
    "hard_negatives": BASE | {"data"},
    "download": BASE,
    "runtime": {"errors"},  # runs without torch
    "image_index": BASE | {"data", "evaluation", "hard_negatives", "models", "report", "runtime"},
    "demo": BASE | {"api", "data", "hard_negatives", "models"},
    "report": BASE | {"runtime", "data", "evaluation", "hard_negatives", "models"},
    "cli": BASE,
    "training": BASE | {"cli", "data", "evaluation", "hard_negatives", "losses", "models", "report"},
    "api": BASE | {"cli", "data", "evaluation", "models", "report", "training", "train", "evaluate"},
}
# The programs and cli/ must start without torch. At import they may use these rooms only; inside functions, and for
# type checkers, the programs may import every room and cli/ may import these. Nothing else is exempt: an import
# inside a function of any other room counts like one at the top of its file.
PROGRAMS = {"__init__", "train", "evaluate", "negatives", "export", "study", "downloads", "search", "tryout"}
AT_IMPORT_OF_A_PROGRAM = {"artifacts", "errors", "cli"}
INSIDE_FUNCTIONS_OF_CLI = {"report"}
# Package -> the rooms and programs that may import it.
ONLY = {
    "open_clip": {"models", "compat"},
    "hydra": {"cli", *PROGRAMS},
    "lightning": {"training", "train", "compat", "data/datamodule.py"},
}


class Import(NamedTuple):
    module: str
    is_late: bool  # inside a function, or under TYPE_CHECKING


def imports(path: Path) -> list[Import]:
    tree = ast.parse(path.read_text())
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    result = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            result.append(Import(node.module, id(node) in late))
        elif isinstance(node, ast.Import):
            result += [Import(alias.name, id(node) in late) for alias in node.names]
    return result


def is_allowed(room: str, imported: str, is_late: bool) -> bool:
    """Whether a file of ``room`` may import the room ``imported``."""
    if room in PROGRAMS:
        return is_late or imported in AT_IMPORT_OF_A_PROGRAM
    if room == "cli" and is_late and imported in INSIDE_FUNCTIONS_OF_CLI:
        return True
    return imported == room or imported in ROOMS[room]


@pytest.mark.parametrize("path", sorted((ROOT / "degla").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    relative = path.relative_to(ROOT / "degla")
    room = relative.parts[0].removesuffix(".py")
    assert room in ROOMS or room in PROGRAMS, f"{room} is new: say here what it may import"
    for module, is_late in imports(path):
        top, _, rest = module.partition(".")
        if top == "degla" and rest:
            assert is_allowed(room, rest.split(".")[0], is_late), f"{path} imports {module}"
        if top in ONLY:
            assert ONLY[top] & {room, str(relative)}, f"{path} imports {module}"
        if room == "losses":
            assert top in {"torch", "degla", "typing", "collections", "contextlib", "functools", "math"}, (
                f"{path} imports {module}"
            )


def test_what_the_direction_test_refuses(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("import os\ndef f():\n    from degla.training import build\nfrom degla.models import clip\n")
    assert imports(file) == [("os", False), ("degla.models", False), ("degla.training", True)]
    assert not is_allowed("models", "training", True) and not is_allowed("report", "cli", True)
    assert is_allowed("train", "training", True) and not is_allowed("train", "training", False)
    assert is_allowed("cli", "report", True) and not is_allowed("cli", "report", False)
    assert not is_allowed("cli", "training", True)


def test_the_command_line_imports_no_torch():
    modules = [f"degla.cli.{path.stem}" for path in (ROOT / "degla" / "cli").glob("*.py") if path.stem != "__init__"]
    modules += ["degla.bounds", *(f"degla.{name}" for name in sorted(PROGRAMS - {"__init__"}))]
    code = f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
    code += "print(*sorted({'torch', 'lightning', 'open_clip', 'transformers', 'datasets'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "" and len(modules) > 10


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


def test_experiments_from_a_folder_of_the_user(tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "my.yaml").write_text("# @package _global_\nname: my\n")
    command = [sys.executable, "-m", "degla.train", "--config-dir", "mine", "experiment=my", "--cfg", "job"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0 and "name: my" in result.stdout
