"""The first of the paper's two stages: a model drafts examples from a rule, and a person selects (section 3.1)."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from degla.errors import ConfigError
from degla.hard_negatives.llm.base import LanguageModelWriter
from degla.hard_negatives.progress import Progress
from degla.hard_negatives.store import Store
from degla.hard_negatives.writers import Writer


def draft_examples(writer: Writer, captions: Sequence[str], store: Store, folder: Path) -> list[Path]:
    """Ask a model about captions by the rules alone, and write the drafts that pass the checks.

    Args:
        writer: a language model.
        captions: what it is asked about.
        store: keeps the answers.
        folder: gets a ``<kind>.yaml`` with the rule and the drafts, for a person to prune.

    Returns:
        The files that were written. Existing files are left alone.

    Raises:
        ConfigError: the writer is not a language model.
    """
    if not isinstance(writer, LanguageModelWriter):
        raise ConfigError("draft needs a language model: set negatives=llm")
    writer.forget_examples()
    tasks = [(caption, kind) for caption in captions for kind in writer.kinds]
    progress = Progress(len(tasks))
    try:
        writer.write(tasks, store, progress)
    finally:
        store.close()
        progress.close()
    return write_drafts(writer, captions, store, folder)


def write_drafts(writer: LanguageModelWriter, captions: Sequence[str], store: Store, folder: Path) -> list[Path]:
    """Write ``<folder>/<kind>.yaml`` with the rule of the kind and every draft that passes the checks.

    Args:
        writer: the writer whose answers are in the store.
        captions: the captions it was asked about.
        store: the answers.
        folder: the value for ``negatives.prompts``. Existing files in it are left alone.

    Returns:
        The files that were written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for kind, prompt in writer.prompts.items():
        drafts = [
            {"caption": caption, "negative": text}
            for caption in captions
            for text in writer.answer_index.verdict(store, caption, kind).accepted
        ]
        path = folder / f"{kind}.yaml"
        if drafts and not path.exists():
            content = {"version": "draft", "rule": prompt.rule, "examples": drafts}
            path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")
            written.append(path)
    return written
