"""README, docs and the files in the repository's root agree with the code."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import degla
from degla.cli.main import config_dir

ROOT = Path(__file__).parents[1]


def load_script(name: str):
    """Import a script of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables = load_script("tables")


@pytest.mark.parametrize("page", tables.PAGES)
def test_tables_are_those_of_their_records(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text.count("<!-- table:") == text.count("<!-- /table -->") == len(tables._BLOCK.findall(text))
    assert tables.fill(text) == text, f"python docs/tables.py fills {page}"


def test_the_readme_shows_the_demo_with_its_largest_loss():
    scores = json.loads((ROOT / "docs/records/demo.json").read_text())["scores"]
    subtasks = {name: score["after"] - score["before"] for name, score in scores.items() if name.startswith("eval/")}
    worst = min(subtasks, key=subtasks.get).removeprefix("eval/scenes/")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"largest loss of a sub-task: `{worst}`" in readme and len(subtasks) == 19


def test_a_block_without_a_table_is_an_error():
    with pytest.raises(KeyError, match="nothing"):
        tables.fill("<!-- table:nothing -->\nold\n<!-- /table -->")


def test_figures_need_no_fonts_and_no_network(tmp_path, monkeypatch):
    figures = load_script("figures")
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    figures.main()
    for name in ("hard_negatives.svg", "method.svg"):
        for text in ((tmp_path / name).read_text(), (ROOT / "docs/figures" / name).read_text()):
            assert "<text" not in text and 'href="http' not in text and "font-family" not in text


def test_the_site_builds_without_a_warning(tmp_path):
    """Links, anchors and the docstrings of the reference."""
    pytest.importorskip("mkdocs")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    loaded = re.compile(r'<(?:script|img|link)[^>]+(?:src|href)="https?://')
    assert len(pages) > 20 and not [page for page in pages if loaded.search(page.read_text(encoding="utf-8"))]
    reference = (tmp_path / "site/reference/losses.html").read_text(encoding="utf-8")
    assert all(f'id="degla.losses.{name}"' in reference for name in ("igc_loss", "tgc_loss", "Objective"))


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "benchmarks/README.md"]
)
def test_links_within_the_repository_lead_somewhere(page):
    """MkDocs checks those of docs/; the pages outside it are read on the repository's site as well."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#\s:]+)(?:#([^)\s]*))?\)", text):
        path = (ROOT / page).parent / target
        assert path.exists(), f"{page} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page} links to {target}#{anchor}"


def test_keys_of_the_open_clip_table_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = readme.partition("| open_clip | degla |")[2].partition("\n\n")[0].splitlines()[2:]
    with initialize_config_dir(config_dir(), version_base="1.3"):
        overrides = ["data@val_data=folder", "benchmark=zeroshot", "data=huggingface", "run_dir=x"]
        cfg = compose("train", overrides)
        folder = compose("train", ["run_dir=x"])
    keys = set()
    for row in rows:
        for code in re.findall(r"`([^`]+)`", row.split("|")[2]):
            keys |= {word.partition("=")[0].strip("'") for word in code.split() if re.match(r"'?[a-z_@.]+(=|$)", word)}
    keys -= {"torchrun", "degla.train", "image", "caption", "negatives"}  # programs, and columns of a file
    missing = object()
    assert len(keys) > 25
    for key in sorted(keys):
        group = key.partition("@")[0]
        known = any(OmegaConf.select(config, key, default=missing) is not missing for config in (cfg, folder))
        assert known or (Path(config_dir()) / group).is_dir(), key


def test_the_slurm_file_starts_a_run_that_composes(tmp_path):
    """The job file runs as it is, with an srun that prints its arguments."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    (bin_dir / "srun").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (bin_dir / "srun").chmod(0o755)
    (tmp_path / "degla/.venv/bin").mkdir(parents=True)
    (tmp_path / "degla/.venv/bin/activate").touch()
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "8", "SLURM_CPUS_PER_TASK": "8"}
    environment = {"PATH": f"{bin_dir}:{os.environ['PATH']}", "HOME": str(tmp_path), **slurm}
    result = subprocess.run(["bash", str(ROOT / "docs/slurm.sbatch")], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    program, *overrides = result.stdout.splitlines()
    assert program == "degla-train"
    with initialize_config_dir(config_dir(), version_base="1.3"):
        cfg = compose("train", [*overrides, "run_dir=x"])
    assert (cfg.name, cfg.ckpt_path, cfg.trainer.num_nodes, cfg.trainer.devices) == ("vitb32-7", "last", 2, 8)
    assert cfg.loader.num_workers == 7 and cfg.data.image_root == str(tmp_path / "data/coco/train2014")


def test_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == degla.__version__
    assert f"## [{degla.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert citation["references"][0]["url"] == "https://arxiv.org/abs/2504.16801"


def test_workflows_use_targets_and_files_that_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    files = sorted((ROOT / ".github").rglob("*.yml"))
    assert len(files) >= 6
    commands = ""
    for file in files:
        content = yaml.safe_load(file.read_text())
        for job in content.get("jobs", {}).values():
            commands += "\n".join(step.get("run", "") for step in job["steps"]) + "\n"
    used = {target for line in re.findall(r"\bmake ([a-z -]+)", commands) for target in line.split()}
    assert used and used <= targets
    assert "twine check" in commands and "pip-audit" in commands and (ROOT / "requirements.lock").exists()
    python = {
        *yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["tests"]["strategy"]["matrix"][
            "python"
        ]
    }
    assert python == {"3.11", "3.12", "3.13"}


def test_hooks_run_what_is_in_the_environment():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    for hook in hooks[0]["hooks"]:
        assert hook["entry"].startswith(".venv/bin/") and hook["language"] == "system"
