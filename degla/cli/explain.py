"""``--options [GROUP[=OPTION] ...]``: the keys of a program as plain text, each with its type, default and meaning.

Imports no torch. ``explain`` imports the constructors of the groups asked for, and torch where they need it.
"""

import difflib
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from degla.cli.keys import groups_of, options_of
from degla.cli.messages import unknown_option
from degla.cli.options import RECIPES, VARIES, Option, Section, group_sections, own_section
from degla.cli.paths import config_dir
from degla.errors import ConfigError

_FLAG = "--options"
_WIDTH = 100


def words_to_explain(arguments: Sequence[str]) -> list[str] | None:
    """Return the groups that a command line with ``--options`` names; None where it has no such flag."""
    if not any(argument.partition("=")[0] == _FLAG for argument in arguments):
        return None
    return [argument.removeprefix(f"{_FLAG}=") for argument in arguments if argument != _FLAG]


def explain(program: str, words: Sequence[str]) -> str:
    """Return the explanation of some groups, or of a program's own keys and all its groups.

    Args:
        program: name of its root config, such as ``train``.
        words: groups, each alone or with the options to explain, such as ``optimizer`` or ``model=vit_b_32``. Without
            any, everything is explained.

    Raises:
        ConfigError: the program has no such group, or the group has no such option.
    """
    chosen = [_chosen(program, word) for word in words]  # all words are checked before anything slow is imported
    if words:
        return "\n\n".join(_group_text(group, names) for group, names in chosen)
    groups = [_group_text(group, options_of(group)) for group in groups_of(program)]
    return "\n\n".join([_section_text(own_section(program)), *groups])


def _chosen(program: str, word: str) -> tuple[str, list[str]]:
    """Return the group and the options that a word of the command line names."""
    group, _, names = word.partition("=")
    groups = groups_of(program)
    if group not in groups:
        close = difflib.get_close_matches(group.partition(".")[0], groups, n=1)
        all_groups = f"the groups of this program are {', '.join(groups)}" if groups else "this program has no groups"
        hint = f"did you mean {_FLAG} {close[0]}?" if close else all_groups
        raise ConfigError(f"there is no group '{group}': {hint}")
    options = options_of(group)
    chosen = [name.strip() for name in names.strip("[]").split(",") if name.strip()]
    for name in chosen:
        if name not in options:
            raise ConfigError(unknown_option(f"{group}/{name}", options))
    return group, chosen or options


def _group_text(group: str, names: Sequence[str]) -> str:
    if group in RECIPES:
        return _wrapped(
            f"== {group} ==\nEach option sets keys of other groups and has none of its own: {', '.join(names)}. "
            f"The files are in {Path(config_dir()) / group}."
        )
    sections = group_sections(group, _with_parts(group, names))
    with_keys = {name for section in sections for name in section.names}
    notes = [_wrapped(_note(group, name)) for name in names if name not in with_keys]
    return "\n\n".join([*map(_section_text, sections), *notes])


def _section_text(section: Section) -> str:
    if section.group:
        of_node = f"{section.node} of " if section.node != section.group else ""
        heading = f"== {of_node}{section.group}={', '.join(section.names)} ==\nArguments of {section.target}."
    else:
        heading = "== Keys of this command =="
    return "\n".join([_wrapped(heading), *map(_option_text, section.options)])


def _option_text(option: Option) -> str:
    default = "default depends on the option" if option.default == VARIES else f"default {option.default}"
    head = f"{option.key}: {'; '.join(filter(None, (option.type, default)))}"
    return f"{_wrapped(head, indent=2)}\n{_wrapped(option.description, indent=6)}"


def _note(group: str, name: str) -> str:
    """Return a line about an option whose file names no constructor."""
    content = _content(group, name)
    settings = ", ".join(f"{key}={value}" for key, value in _own_settings(content).items())
    if parts := _parts(content):
        return f"{group}={name}: the keys of {', '.join(parts)}{f', with {settings}' if settings else ''}."
    return f"{group}={name}: {f'sets {settings}' if settings else 'no keys'}."


def _with_parts(group: str, names: Sequence[str]) -> set[str]:
    """Return options together with those that their files build on."""
    parts = [part for name in names for part in _parts(_content(group, name))]
    return {*names, *_with_parts(group, parts)} if parts else set(names)


def _parts(content: dict[str, Any]) -> list[str]:
    return [entry for entry in content.get("defaults", []) if isinstance(entry, str) and entry != "_self_"]


def _own_settings(content: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a file whose keys another file explains."""
    return {
        key: yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
        for key, value in content.items()
        if key not in ("defaults", "_target_") and value is not None
    }


def _content(group: str, name: str) -> dict[str, Any]:
    text = (Path(config_dir()) / group / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text) or {}


def _wrapped(text: str, indent: int = 0) -> str:
    """Return lines of at most 100 columns; the continuation of a line that starts further left is indented more."""
    start, more = " " * indent, " " * (indent if indent > 2 else indent + 4)
    return "\n".join(
        textwrap.fill(line, _WIDTH, initial_indent=start, subsequent_indent=more, break_on_hyphens=False)
        for line in text.splitlines()
    )
