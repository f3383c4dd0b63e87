"""The prompts: for each kind a rule and curated examples (paper, section 3.1)."""

import hashlib
import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from degla.errors import ConfigError
from degla.hard_negatives.kinds import ALL_KINDS

_TASK = (
    "You rewrite captions of pictures into hard negatives: sentences that look like the caption, are fluent, and are "
    'false of its picture.\nRule: {rule}\nAnswer with a JSON object {{"negatives": [...]}} that holds {count} '
    "different rewriting{s}, or an empty list where the rule cannot be applied. Write nothing else."
)
_COMPANION_TASKS = {
    "unit_foil": (
        "You take captions of pictures apart.\nRule: {rule}\nAnswer with a JSON object "
        '{{"negatives": [...]}} that holds {count} different line{s}, or an empty list where the rule cannot be '
        "applied. Write nothing else."
    ),
    "paraphrase": (
        "You rewrite captions of pictures without changing their meaning.\nRule: {rule}\nAnswer with a JSON object "
        '{{"negatives": [...]}} that holds {count} different rewriting{s}, or an empty list where the rule cannot be '
        "applied. Write nothing else."
    ),
}
ANSWER_SCHEMA = {
    "type": "object",
    "properties": {"negatives": {"type": "array", "items": {"type": "string"}}},
    "required": ["negatives"],
    "additionalProperties": False,
}


class Prompt(NamedTuple):
    """The rule and the examples of one kind."""

    kind: str
    rule: str
    examples: list[tuple[str, str]]  # caption and negative
    version: str  # changes with every word of the prompt

    def messages(self, caption: str, count: int) -> list[dict[str, str]]:
        """Return the messages of a request: the rule, the examples as earlier turns, and the caption.

        Args:
            caption: the caption to rewrite.
            count: number of negatives that are asked for.
        """
        task = _COMPANION_TASKS.get(self.kind, _TASK).format(rule=self.rule, count=count, s="" if count == 1 else "s")
        turns = [{"role": "system", "content": task}]
        for example, negative in self.examples:
            turns.append({"role": "user", "content": example})
            turns.append({"role": "assistant", "content": json.dumps({"negatives": [negative]}, ensure_ascii=False)})
        return [*turns, {"role": "user", "content": caption}]


def load_prompts(kinds: Iterable[str], folder: str | None = None) -> dict[str, Prompt]:
    """Return kind -> prompt.

    Args:
        kinds: of ``ALL_KINDS``.
        folder: a folder with a ``<kind>.yaml`` for each kind whose prompt is not ours.

    Raises:
        ConfigError: the folder is missing, or a file lacks ``rule`` or ``examples``.
    """
    if folder is not None:
        if not Path(folder).is_dir():
            raise ConfigError(f"negatives.prompts: there is no folder {folder}")
        if unknown := sorted({file.stem for file in Path(folder).glob("*.yaml")} - set(ALL_KINDS)):
            raise ConfigError(f"negatives.prompts: {unknown[0]}.yaml is no kind; the kinds are {', '.join(ALL_KINDS)}")
    return {kind: _load(kind, folder) for kind in kinds}


def _load(kind: str, folder: str | None) -> Prompt:
    file: Any = files("degla.hard_negatives.llm").joinpath(f"prompts/{kind}.yaml")
    if folder and (Path(folder) / f"{kind}.yaml").is_file():
        file = Path(folder) / f"{kind}.yaml"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        examples = [(str(item["caption"]), str(item["negative"])) for item in content["examples"]]
        rule = str(content["rule"]).strip()
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(
            f"negatives.prompts: {file} is not of the form rule, examples: [{{caption, negative}}]: {error!r}"
        ) from error
    digest = hashlib.sha256(json.dumps([_COMPANION_TASKS.get(kind, _TASK), rule, examples]).encode()).hexdigest()[:8]
    return Prompt(kind, rule, examples, f"{content.get('version', 0)}-{digest}")
