"""Every option of every program with its type, default and description, collected from the constructors.

A key of a group is an argument of the constructor under ``_target_``. Its type is the argument's hint, and its
description is the entry in the docstring's ``Args:``. A comment behind the key in the config file describes keys that
no docstring does: those of a program itself, and arguments that a library does not document.

``python -m degla.cli.options > docs/options.md`` renews the page of the docs. Nothing is imported before a function
is called; then the constructors are, and torch with them.
"""

import inspect
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from degla.cli.bounds import words_of
from degla.cli.hints import describe, type_hints
from degla.cli.keys import groups_of
from degla.cli.paths import config_dir
from degla.cli.targets import find_target
from degla.objective_terms import current_objective

PROGRAMS = {
    "train": "degla-train",
    "evaluate": "degla-evaluate",
    "negatives": "degla-negatives",
    "export": "degla-export",
    "study": "degla-study",
    "downloads": "degla-data",
    "search": "degla-search",
    "try": "degla-try",
}
RECIPES = ("experiment", "sweep")  # groups that set keys of others and have none of their own
VARIES = "by option"  # shown in place of a default that is not the same for all options of a group
_TYPES = {"precision": "32, bf16-mixed or 16-mixed"}  # where the default's own type is misleading


class Option(NamedTuple):
    """One config key."""

    key: str  # with its group in front
    type: str
    default: str
    description: str


class Section(NamedTuple):
    """The keys of one constructor, or of one program."""

    group: str  # "" for the keys of a program itself
    node: str  # where the keys are: the group, or one of its named nodes such as callbacks.checkpoint
    names: list[str]  # options of the group that use the constructor
    target: str
    options: list[Option]


def program_sections(program: str) -> list[Section]:
    """Return the keys of a program itself, then those of its groups.

    Args:
        program: name of its root config, such as ``train``.
    """
    return [own_section(program), *(section for group in groups_of(program) for section in group_sections(group))]


def own_section(program: str) -> Section:
    """Return the keys of a program itself, without those of its groups.

    Args:
        program: name of its root config, such as ``train``.
    """
    file = Path(config_dir()) / f"{program}.yaml"
    content, comments = _read(file)
    groups = groups_of(program)
    plain = [
        Option(
            key,
            _TYPES.get(key) or words_of(key, program) or _type_of(value),
            _shown(value),
            comments.get(key.rpartition(".")[2], ""),
        )
        for key, value in _leaves(content)
        if key.partition(".")[0] not in ("defaults", "hydra", *groups)
    ]
    return Section("", "", [], "", plain)


def group_sections(group: str, names: Collection[str] | None = None) -> list[Section]:
    """Return the keys of a group, one section per constructor.

    Args:
        group: a folder of the configs, such as ``model``.
        names: the options to read, such as ``vit_b_32``; None reads all of them.
    """
    if group in RECIPES:
        return []
    sections: dict[tuple[str, str], Section] = {}
    for file in sorted((Path(config_dir()) / group).glob("*.yaml")):
        if names is not None and file.stem not in names:
            continue
        content, comments = _read(file)
        for prefix, node in _nodes(content, group):
            found = Section(group, prefix, [file.stem], node["_target_"], _options(prefix, node, comments))
            known = sections.get((prefix, found.target))
            sections[prefix, found.target] = found if known is None else _merged(known, found)
    return list(sections.values())


def markdown() -> str:
    """Return the page ``docs/options.md``."""
    parts = [
        "# Options\n\nEvery config key with its type, default and meaning. This page is made by\n"
        "`python -m degla.cli.options > docs/options.md` from the docstrings and type hints of the constructors.\n"
        "How options are chosen and set is in [configuration.md](configuration.md)."
    ]
    described: set[str] = set()
    for program, command in PROGRAMS.items():
        if not (Path(config_dir()) / f"{program}.yaml").is_file():
            continue
        sections = program_sections(program)
        parts.append(f"## {command}\n\n{_table(sections[0].options)}")
        groups = list(dict.fromkeys(section.group for section in sections[1:]))
        if repeated := [group for group in groups if group in described]:
            parts.append(f"Groups described above: {', '.join(f'`{group}`' for group in repeated)}.")
        parts += [_part(section) for section in sections[1:] if section.group not in described]
        described |= set(groups)
    return "\n\n".join(parts) + "\n"


def _part(section: Section) -> str:
    names = ", ".join(f"`{section.group}={name}`" for name in section.names)
    if section.node != section.group:
        names = f"`{section.node}` of {names}"
    table = _table(section.options) if section.options else "No keys."
    return f"### {names}\n\nArguments of `{section.target}`.\n\n{table}"


def _table(options: list[Option]) -> str:
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for option in options:
        cells = (f"`{option.key}`", option.type, f"`{option.default}`", option.description)
        rows.append(f"| {' | '.join(_escaped(cell) for cell in cells)} |")
    return "\n".join(rows)


def _escaped(cell: str) -> str:
    """Keep a cell from ending at a bar, and ``<name>`` from being read as HTML outside of code."""
    cell = cell.replace("|", "\\|")
    return cell if cell.startswith("`") else cell.replace("<", "&lt;")


def _merged(first: Section, second: Section) -> Section:
    """Return one section for two options with the same constructor; a default that differs is not shown."""
    others = {option.key: option for option in second.options}
    options = [
        option if option.key not in others or others[option.key].default == option.default
        else option._replace(default=VARIES)
        for option in first.options
    ]  # fmt: skip
    options += [option for key, option in others.items() if key not in {known.key for known in first.options}]
    return first._replace(names=[*first.names, *second.names], options=options)


def _nodes(content: dict[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if content.get("_target_"):
        yield prefix, {name: value for name, value in content.items() if name != "terms"}
        for name, term in current_objective(content).get("terms", {}).items():
            yield f"{prefix}.terms.{name}", term
    for name, value in content.items():
        if isinstance(value, dict) and "_target_" not in content:
            yield from _nodes(value, f"{prefix}.{name}")


def _options(prefix: str, node: dict[str, Any], comments: dict[str, str]) -> list[Option]:
    target = find_target(node["_target_"], prefix)
    hints, documented = type_hints(target), argument_docs(target)
    return [
        Option(
            key=f"{prefix}.{name}",
            type=words_of(f"{prefix}.{name}") or (describe(hints[name]) if name in hints else _type_of(value)),
            default=_shown(value),
            description=documented.get(name) or comments.get(name, ""),
        )
        for name, value in node.items()
        if name != "_target_"
    ]


def argument_docs(constructor: Callable[..., Any]) -> dict[str, str]:
    """Return name -> description of the arguments that a constructor's docstring documents.

    An entry such as "see ``Objective``" is replaced by that base class's own.

    Args:
        constructor: a class, or a function that returns an object.
    """
    owners = inspect.getmro(constructor) if inspect.isclass(constructor) else (constructor,)
    texts: dict[str, str] = {}
    for owner in owners:
        for part in (owner, owner.__dict__.get("__init__") if inspect.isclass(owner) else None):
            for name, text in _arguments(inspect.getdoc(part) or "").items():
                if name not in texts or texts[name].lower().startswith("see `"):
                    texts[name] = text
    return texts


def _arguments(doc: str) -> dict[str, str]:
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", inspect.cleandoc(doc), re.MULTILINE)
    if section is None:
        return {}
    lines = inspect.cleandoc("\n" + section.group(1)).splitlines()
    entries: dict[str, list[str]] = {}
    name = ""
    for line in lines:
        if start := re.match(r"(\w+)(?: \([^)]*\))?: ?(.*)", line):
            name = start.group(1)
            entries[name] = [start.group(2)]
        elif name and line.strip():
            entries[name].append(line.strip())
        else:
            name = ""  # a blank line ends an entry: what follows are examples of a library
    return {name: _tidied(" ".join(words)) for name, words in entries.items()}


def _tidied(text: str) -> str:
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")  # reStructuredText to Markdown
    for python, in_yaml in (("None", "null"), ("True", "true"), ("False", "false")):
        text = re.sub(rf"\b{python}\b", in_yaml, text)
    return re.sub(r"\s+", " ", text).strip().rstrip(".")


def _read(file: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the content of a config file, and the comment behind each key by the key's own name."""
    text = file.read_text(encoding="utf-8")
    comments: dict[str, str] = {}
    for line in text.splitlines():
        if comment := re.match(r"\s*(\w+):.*?\s#\s(.*)", line):
            comments.setdefault(comment.group(1), _tidied(comment.group(2)))
    return yaml.safe_load(text) or {}, comments


def _leaves(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
    return text.strip("'") if isinstance(value, str) and value else text


def _type_of(value: Any) -> str:
    return "" if value is None else describe(type(value)) if not isinstance(value, list) else "a list"


if __name__ == "__main__":
    print(markdown(), end="")
