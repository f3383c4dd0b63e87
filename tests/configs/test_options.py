"""Options describe themselves: each has a type and a meaning, and docs/options.md is what the constructors say."""

from pathlib import Path

import pytest

from degla.cli.keys import groups_of
from degla.cli.options import PROGRAMS, argument_docs, group_sections, markdown, program_sections
from degla.losses import CEClipObjective

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
    assert options["optimizer.lr"].type == "a number" and options["optimizer.betas"].type == "a list of a number"
    assert options["optimizer.lr"].default == "1.0e-06"
    merged = {option.key: option for option in group_sections("teacher")[0].options}
    assert merged["teacher.decay"].default == "by option" and merged["teacher.text_cache"].default == "null"
    assert "see" not in argument_docs(CEClipObjective)["local_loss"].lower()  # of its base class


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run: python -m degla.cli.options > docs/options.md"
