"""pyproject.toml declares what the package imports, installs and contains."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import degla

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Packages whose import has another name, or none that ours could import.
IMPORTED_AS = {
    "hydra-core": "hydra",
    "open-clip-torch": "open_clip",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "hanta": "HanTa",
    "huggingface-hub": "huggingface_hub",
}
NOT_IMPORTED = {
    "tensorboard": "Lightning's TensorBoardLogger imports it",
    "torchmetrics": "Lightning's self.log keeps its means in it",
    "sentencepiece": "transformers reads SigLIP's vocabulary with it",
    "hydra-joblib-launcher": "a plugin that Hydra finds",
    "hydra-submitit-launcher": "a plugin that Hydra finds",
    "onnx": "torch's exporter imports it",
    "wandb": "Lightning's WandbLogger imports it",
    "mlflow-skinny": "Lightning's MLFlowLogger imports it",
}
NOT_DECLARED = {"spacy": "replaces HanTa where the user has installed it with a model, which no package brings"}


def names(requirements: list[str]) -> set[str]:
    found = (re.match(r"[\w.-]+", requirement).group() for requirement in requirements)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in found} - {"degla"}


def imported(folder: Path) -> dict[str, str]:
    """Top-level package -> a file of ours that imports it."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            else:
                continue
            for module in modules:
                top = module.partition(".")[0]
                if top not in sys.stdlib_module_names and top not in ("degla", "__main__"):
                    found.setdefault(top, str(path.relative_to(folder.parent)))
    return found


EXTRAS = PROJECT["optional-dependencies"]
REQUIRED = names(PROJECT["dependencies"])
OPTIONAL = set().union(*(names(items) for extra, items in EXTRAS.items() if extra not in ("dev", "docs")))


def test_every_import_is_declared():
    declared = {IMPORTED_AS.get(name, name) for name in REQUIRED | OPTIONAL}
    missing = {top: file for top, file in imported(ROOT / "degla").items() if top not in declared | set(NOT_DECLARED)}
    assert not missing, f"imported but not in pyproject.toml: {missing}"


def test_every_declared_package_is_imported():
    used = set(imported(ROOT / "degla"))
    unused = {name for name in REQUIRED | OPTIONAL if IMPORTED_AS.get(name, name) not in used} - set(NOT_IMPORTED)
    assert not unused, f"in pyproject.toml, but never imported: {unused}"


@pytest.mark.parametrize(
    "package", ["torch", "torchvision", "lightning", "hydra-core", "omegaconf", "open-clip-torch", "datasets",
                "huggingface-hub"],
)  # fmt: skip
def test_packages_with_private_uses_have_an_upper_bound_that_the_tried_version_is_below(package):
    requirement = next(item for item in PROJECT["dependencies"] if names([item]) == {package})
    bound = re.search(r"<([\d.]+)", requirement)
    assert bound, requirement
    tried = tuple(map(int, re.findall(r"\d+", importlib.metadata.version(package).partition("+")[0])[:3]))
    assert tried < tuple(map(int, bound.group(1).split("."))), f"{requirement}, but {tried} is what the tests run with"


def test_every_program_is_a_script_and_every_script_a_program():
    scripts = {target.partition(":")[0]: name for name, target in PROJECT["scripts"].items()}
    for module in scripts:
        source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
        assert "def main() -> None:" in source and '__name__ == "__main__"' in source, module
    programs = {path.stem for path in (ROOT / "degla").glob("*.py") if "def main() -> None:" in path.read_text()}
    assert programs == {module.removeprefix("degla.") for module in scripts}


def test_all_extras_are_in_dev_but_the_loggers_that_need_a_server():
    assert set(re.search(r"\[(.*)\]", EXTRAS["dev"][0]).group(1).split(",")) == set(EXTRAS) - {"dev", "wandb", "mlflow"}


@pytest.mark.slow
def test_the_wheel_is_typed_and_has_the_version_of_the_package(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    wheel = next(tmp_path.glob("*.whl"))
    assert wheel.name.startswith(f"degla-{degla.__version__}-")
    with zipfile.ZipFile(wheel) as archive:
        assert "degla/py.typed" in archive.namelist()
        metadata = archive.read(f"degla-{degla.__version__}.dist-info/METADATA").decode()
    assert "Typing :: Typed" in metadata and "Project-URL: Paper, https://arxiv.org/abs/2504.16801" in metadata
    result = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", str(wheel)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
