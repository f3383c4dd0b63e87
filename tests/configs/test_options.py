"""Options describe themselves: each has a type and a meaning, and docs/options.md agrees with the constructors."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from degla.cli.explain import explain
from degla.cli.keys import groups_of
from degla.cli.options import PROGRAMS, argument_docs, group_sections, markdown, program_sections
from degla.errors import ConfigError
from degla.losses import IGC

PAGE = Path(__file__).parents[2] / "docs" / "options.md"
GROUPS = sorted({group for program in PROGRAMS for group in groups_of(program)})


@pytest.mark.parametrize("group", GROUPS)
def test_each_key_of_a_group_is_described(group):
    sections = group_sections(group)
    assert sections or group in ("experiment", "sweep")
    for section in sections:
        for option in section.options:
            assert len(option.description) > 3 and not option.description.lower().startswith("see `"), option
            assert option.key.startswith(f"{group}.") and option.default != ""


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_key_of_a_program_is_described(program):
    plain = program_sections(program)[0]
    assert plain.options and all(len(option.description) > 3 for option in plain.options), plain


def test_descriptions_come_from_docstrings_and_types_from_hints():
    (section,) = group_sections("optimizer")
    options = {option.key: option for option in section.options}
    assert section.target == "degla.training.optim.adamw" and section.names == ["adamw"]
    assert options["optimizer.lr"].type == "a number of 0 or more"
    assert options["optimizer.betas"].type == "two numbers from 0 to below 1, such as [0.9, 0.98]"
    loader, trainer = (
        {option.key: option for option in group_sections(name)[0].options} for name in ("loader", "trainer")
    )
    assert loader["loader.chunk_size"].type == "a whole number of 1 or more, or null"
    assert trainer["trainer.max_steps"].type == "a number of steps of 1 or more, or -1"
    assert options["optimizer.lr"].default == "1.0e-06"
    merged = {option.key: option for option in group_sections("teacher")[0].options}
    assert merged["teacher.decay"].default == "by option" and merged["teacher.text_cache"].default == "null"
    assert argument_docs(IGC)["weight"].startswith("factor of the term")  # of its base class


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run: python -m degla.cli.options > docs/options.md"


def explained(text):
    """Return key -> description of a text that ``--options`` printed."""
    entries = re.findall(r"^  ([\w.]+): (?:.*\n)(?:    .*\n)*?((?:      .*\n?)+)", text, re.MULTILINE)
    return {key: " ".join(description.split()) for key, description in entries}


def test_the_flag_explains_a_group(tmp_path):
    command = [sys.executable, "-m", "degla.train", "--options", "optimizer"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0 and result.stderr == "" and list(tmp_path.iterdir()) == []
    (section,) = group_sections("optimizer")
    assert explained(result.stdout) == {option.key: option.description for option in section.options}
    assert "  optimizer.lr: a number of 0 or more; default 1.0e-06\n" in result.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_without_a_group_every_key_of_the_program_is_explained(program):
    text = explain(program, [])
    keys = {option.key for section in program_sections(program) for option in section.options}
    descriptions = explained(text)
    assert set(descriptions) == keys and all(descriptions.values())
    assert max(map(len, text.splitlines())) <= 100


def test_an_option_has_its_own_default_and_the_keys_that_it_builds_on():
    assert "model.name: a text; default ViT-B-32\n" in explain("train", ["model=vit_b_32"])
    assert "model.name: a text; default depends on the option\n" in explain("train", ["model"])
    assert "optimizer.lr" in explain("train", ["scheduler", "optimizer"])
    stream = explain("train", ["data=hub_stream"])
    assert "data.shuffle_buffer:" in stream and "the keys of huggingface, with streaming=true" in stream
    assert "benchmark.valse." in explain("evaluate", ["benchmark=[all]"])  # all is paper and more, paper has valse
    assert "teacher=none: no keys" in explain("train", ["teacher"])
    assert "vitb32" in explain("train", ["experiment"])


@pytest.mark.parametrize(
    ("program", "word", "message"),
    [
        ("train", "optimiser", "there is no group 'optimiser': did you mean --options optimizer?"),
        ("train", "optimizer.lr", "there is no group 'optimizer.lr': did you mean --options optimizer?"),
        ("train", "optimizer=adam", "there is no optimizer=adam: did you mean optimizer=adamw?"),
        ("evaluate", "optimizer", "there is no group 'optimizer': the groups of this program are model, benchmark"),
        ("downloads", "model", "there is no group 'model': this program has no groups"),
    ],
)
def test_an_unknown_group_is_one_sentence(program, word, message):
    with pytest.raises(ConfigError) as error:
        explain(program, [word])
    assert str(error.value) == message


def test_an_unknown_group_ends_with_exit_code_2_before_torch_is_imported(tmp_path):
    code = "import sys; from degla.train import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, "--options=optimiser"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2 and result.stdout.strip() == "False"
    assert result.stderr == "error: there is no group 'optimiser': did you mean --options optimizer?\n"
