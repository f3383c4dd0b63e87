"""The first of the paper's two stages: a model drafts examples for a rule, a person picks (section 3.1)."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from degla.hard_negatives.llm.base import Prompted
from degla.hard_negatives.store import Store


def write_drafts(writer: Prompted, captions: Sequence[str], store: Store, folder: Path) -> list[Path]:
    """``<folder>/<kind>.yaml`` with the rule and every draft that passes the checks, to be pruned by hand.

    Args:
        writer: without examples; its answers are in the store.
        captions: that it was asked about.
        store: of the answers.
        folder: for ``negatives.prompts=<folder>``; a file that is there already is left alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for kind, prompt in writer.prompts.items():
        drafts = [
            {"caption": caption, "negative": text}
            for caption in captions
            for text in writer.filing.verdict(store, caption, kind).accepted
        ]
        path = folder / f"{kind}.yaml"
        if drafts and not path.exists():
            content = {"version": "draft", "rule": prompt.rule, "examples": drafts}
            path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")
            written.append(path)
    return written
